/** What a probe found in the videos of a list, as findings with their lines. */
import { plural } from '../../base/words.ts';
import type { Facts, Probe, Sampling } from '../../runtime/probe-replies.ts';
import type { Code, Finding, Findings, Severity } from '../check/findings.ts';
import { nameClip } from '../line.ts';
import { countAllowed } from '../list.ts';
import type { SeenClip } from './cache.ts';
import type { BadClip } from './known.ts';
import { countSpan } from './tables.ts';

/** A clip of a list with its file. */
export interface ListedVideo extends SeenClip {
  line: number;
}

/** Codes of the faults that Python names (`BadVideo` of py/coldframe/video/streams.py, and `slow`). */
const CODES: Record<string, Code> = {
  missing: 'missing',
  empty: 'empty',
  slow: 'slow',
  'not-a-file': 'not-a-file',
  'not-a-video': 'not-a-video',
};

export interface ProbedList {
  file: string;
  numLines: number;
  /** Clips that were found to be bad without looking into them. */
  numAbsent: number;
  maxMissingFraction: number;
}

type Add = (code: Code, severity: Severity, message: string) => void;

const nameVideo = ({ path, part }: ListedVideo): string => nameClip(path, part);

/** Takes the probes of a list one by one; what depends on all of them is added at the end. */
export class ProbeFindings {
  readonly #list: ProbedList;
  readonly #sampling: Sampling | null;
  readonly #findings: Findings;
  readonly #found: { severity: Severity; code: Code; video: ListedVideo; message: string }[] = [];
  readonly #bad: BadClip[] = [];
  #shortest = Number.POSITIVE_INFINITY;

  constructor(list: ProbedList, sampling: Sampling | null, findings: Findings) {
    this.#list = list;
    this.#sampling = sampling;
    this.#findings = findings;
  }

  take(video: ListedVideo, { facts, problem, damage }: Probe): void {
    const add: Add = (code, severity, message) => void this.#found.push({ code, severity, video, message });
    if (problem !== null) {
      const code = CODES[problem.fault] ?? 'unreadable';
      if (code === 'slow') add(code, 'warning', `${nameVideo(video)} ${describeSlow(problem.reason, facts)}`);
      else this.#takeBad(video, problem.reason, facts?.num_frames ?? null, code, add);
      return;
    }
    if (damage !== null)
      add(
        'damaged',
        'warning',
        `${nameVideo(video)} has damage that this sampling does not reach: ${damage}. Fetch it again.`,
      );
    if (facts !== null) this.#takeFacts(facts, nameVideo(video), add);
  }

  #takeBad(video: ListedVideo, reason: string, numFrames: number | null, code: Code, add: Add): void {
    const { path, part, size, mtime, line } = video;
    const clip = part === undefined ? { path } : { path, part };
    this.#bad.push({ ...clip, size, mtime, line, reason, num_frames: numFrames });
    add(code, 'error', `${nameVideo(video)} ${reason}`);
  }

  #takeFacts(facts: Facts, name: string, add: Add): void {
    const span = this.#sampling === null ? 0 : countSpan(this.#sampling);
    if (facts.num_frames < span) {
      this.#shortest = Math.min(this.#shortest, facts.num_frames);
      add('too-short', 'warning', `${name} has ${plural(facts.num_frames, 'frame')}, and ${span} are spanned.`);
    }
    if (facts.is_variable_rate)
      add(
        'variable-rate',
        'note',
        `${name} has a variable rate, ${facts.rate.toFixed(2)} a second on average: frames are taken by their number, not by their time.`,
      );
    if (facts.rotation !== 0 || facts.mirrored)
      add(
        'rotated',
        'note',
        `${name} is shown ${describeTurn(facts)}, as ${facts.width}x${facts.height}, and is read so.`,
      );
    if (!facts.by_time)
      add(
        'no-times',
        'note',
        `${name} has no time stamps that tell the order of its frames: it is decoded from its beginning each time. \`coldframe clips prepare\` makes it quick.`,
      );
    if (facts.num_missing > 0)
      add('frames-missing', 'note', `${name} lacks ${plural(facts.num_missing, 'frame')} that its header promises.`);
  }

  /** Returns the clips that cannot be used, by line. */
  listBad(): BadClip[] {
    return this.#bad.toSorted((one, other) => one.line - other.line);
  }

  /** Adds what was found to the findings, by line; videos that may be skipped are warnings. */
  finish(): void {
    const { file, numLines, numAbsent, maxMissingFraction } = this.#list;
    const numBad = numAbsent + this.#found.filter(({ severity }) => severity === 'error').length;
    const isAllowed = numBad <= countAllowed(maxMissingFraction, numLines);
    this.#found.sort((one, other) => one.video.line - other.video.line);
    for (const { code, severity, video, message } of this.#found) {
      const isSkipped = severity === 'error' && isAllowed;
      const finding: Finding = {
        ...{ code, severity: isSkipped ? 'warning' : severity, list: file, line: video.line, path: video.path },
        message: severity !== 'error' ? message : isSkipped ? `${message}. It will be skipped.` : `${message}.`,
      };
      this.#findings.add(finding);
    }
    this.#summarize(file);
  }

  #summarize(list: string): void {
    const numShort = this.#found.filter(({ code }) => code === 'too-short').length;
    if (numShort === 0 || this.#sampling === null) return;
    const { num_frames, stride } = this.#sampling;
    const what = stride === null ? `${num_frames} segments` : `${num_frames} frames every ${stride}`;
    const summary = `${plural(numShort, 'clip')} with fewer frames than the ${countSpan(this.#sampling)} that ${what} span, the shortest with ${this.#shortest}: frames are repeated there`;
    this.#findings.summarize({ code: 'too-short', severity: 'warning', list }, summary);
  }
}

function describeSlow(reason: string, facts: Facts | null): string {
  const size =
    facts === null ? '' : ` (${plural(facts.num_frames, 'frame')} of ${facts.width}x${facts.height}, ${facts.codec})`;
  return `${reason}${size}: not all of it was looked at. Raise --probe-seconds, or make it quick with \`coldframe clips prepare\`.`;
}

function describeTurn({ rotation, mirrored }: Facts): string {
  const turned = rotation === 0 ? '' : `turned by ${rotation} degrees`;
  return [turned, mirrored ? 'mirrored' : ''].filter(Boolean).join(' and ');
}
