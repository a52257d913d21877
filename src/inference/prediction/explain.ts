/** `predict --explain`: pictures of where the decoder looks, and what its answer is without that. */

import { basename, extname, join } from 'node:path';
import { UserError } from '../../base/errors.ts';
import type { EventOf } from '../../base/events/event.ts';
import { writeWhole } from '../../base/files.ts';
import { formatTime } from '../../data/line.ts';
import type { Session } from '../../runtime/session.ts';
import type { Video } from './videos.ts';

export interface Attention {
  /** From 1; null: the mean of all. */
  layer: number | null;
  head: number | null;
}

/** Returns what LAYER or LAYER:HEAD names. */
export function readAttention(word: string | undefined): Attention {
  if (word === undefined) return { layer: null, head: null };
  const [, layer, head] = /^(\d+|\*)(?::(\d+))?$/.exec(word) ?? [];
  if (layer === undefined)
    throw new UserError(
      `--attention  found ${word}. Allowed: LAYER or LAYER:HEAD, both from 1, such as 4 or 4:2; *:2 is a head of all layers.`,
    );
  return { layer: layer === '*' ? null : Number(layer), head: head === undefined ? null : Number(head) };
}

/** Draws videos into a folder, each under a name of its own. */
export class Explainer {
  readonly #folder: string;
  readonly #attention: Attention;
  readonly #session: Session;
  readonly #taken = new Set<string>();

  constructor(folder: string, attention: Attention, session: Session) {
    this.#folder = folder;
    this.#attention = attention;
    this.#session = session;
  }

  /** Returns what is told of a video; undefined where its middle cannot be read. */
  async explain(video: Video): Promise<EventOf<'explained'> | undefined> {
    const stem = join(this.#folder, this.#name(video));
    const files = { strip: `${stem}.png`, overlay: `${stem}.mp4`, json: `${stem}.json` };
    const { strip, overlay } = files;
    const part: [number, number] | null = video.part === null ? null : [video.part.start, video.part.end];
    const { explanation } = await this.#session.explain({
      ...{ path: video.path, part, ...this.#attention },
      ...{ strip, overlay },
    });
    if (explanation === null) return undefined;
    writeWhole(files.json, `${JSON.stringify({ path: video.name, ...this.#attention, ...explanation })}\n`);
    const { frames, label, name, probability, without_most, without_least } = explanation;
    return {
      ...{ kind: 'explained', path: video.name, ...files, frames, label, name, probability },
      ...{ without_most, without_least },
    };
  }

  /** `a`, of a part `a_12-20.5`; of another file of this name `a-2`. */
  #name({ path, part }: Video): string {
    const file = basename(path, extname(path));
    const stem = part === null ? file : `${file}_${formatTime(part.start)}-${formatTime(part.end)}`;
    let name = stem;
    for (let number = 2; this.#taken.has(name); number += 1) name = `${stem}-${number}`;
    this.#taken.add(name);
    return name;
  }
}
