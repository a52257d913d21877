/** Probes clips: what is known of them from the last time, and the rest through the runtime, several side by side. */
import { Interrupted } from '../../base/errors.ts';
import { countCores } from '../../base/process/processes.ts';
import type { Stop } from '../../base/process/stop.ts';
import type { Probe } from '../../runtime/probe-replies.ts';
import type { Session, VideoToProbe } from '../../runtime/session.ts';
import { withSession } from '../../runtime/with-session.ts';
import { nameClip } from '../line.ts';
import { ProbeCache, type ProbeRules, type SeenClip } from './cache.ts';

const CALL_SECONDS = 1;
/** Videos that a process has waiting: they last longer than a call, mostly. */
const WAITING_EACH = 64;
/** Parts of a file that a process takes together: it looks through the file once for them. */
const PARTS_AT_ONCE = 32;

export interface ProbeRequest<Clip extends SeenClip> {
  clips: Clip[];
  rules: ProbeRules;
  /** Where what is found is kept, if not where all checks look. */
  folder?: string;
  stop: Stop;
  /** Called for each clip, in no order. */
  tell: (clip: Clip, probe: Probe) => void;
  progress: (numDone: number, numTotal: number) => void;
}

/** Probes each clip once, also one that stands there several times. Returns how many were known, and what kept the rest
 * from being kept. Throws Interrupted when asked to stop: what is found by then is kept. */
export async function probeClips<Clip extends SeenClip>(
  request: ProbeRequest<Clip>,
): Promise<{ numKnown: number; problem: string | undefined }> {
  const { clips, rules, folder, stop } = request;
  const cache = new ProbeCache(rules, folder);
  const todo = new Map<string, Clip[]>();
  let numKnown = 0;
  for (const clip of clips) {
    const known = cache.find(clip);
    if (known !== undefined) {
      numKnown += 1;
      request.tell(clip, known);
      continue;
    }
    const name = nameClip(clip.path, clip.part);
    const same = todo.get(name);
    if (same === undefined) todo.set(name, [clip]);
    else same.push(clip);
  }
  if (todo.size > 0) await withSession({ stop }, (session) => probeRest(session, request, todo, cache));
  return { numKnown, problem: cache.problem };
}

async function probeRest<Clip extends SeenClip>(
  session: Session,
  { rules, stop, tell, progress }: ProbeRequest<Clip>,
  todo: Map<string, Clip[]>,
  cache: ProbeCache,
): Promise<void> {
  const { reader, sampling, limitSeconds } = rules;
  const [numTotal, numProcesses] = [todo.size, countCores()];
  const waiting = planVideos(todo);
  let [numDone, numLeft] = [0, 0];
  while (numDone < numTotal) {
    if (stop.signal.aborted)
      throw new Interrupted(
        `stopped; ${numDone} of ${numTotal} clips are probed, and the same command goes on from there`,
      );
    const videos: VideoToProbe[] = [];
    while (numLeft + videos.length < numProcesses * WAITING_EACH) {
      const video = waiting.next();
      if (video.done) break;
      videos.push(video.value);
    }
    const asked = { videos, reader, sampling, seconds: CALL_SECONDS };
    const reply = await session.probe({ ...asked, num_processes: numProcesses, limit_seconds: limitSeconds });
    for (const { path, part, ...probe } of reply.clips) {
      const [start, end] = part ?? [];
      const clips =
        todo.get(nameClip(path, start === undefined || end === undefined ? undefined : { start, end })) ?? [];
      for (const clip of clips) tell(clip, probe);
      if (clips[0] !== undefined) cache.add(clips[0], probe);
    }
    cache.flush();
    numLeft = reply.num_left;
    numDone += reply.clips.length;
    progress(numDone, numTotal);
  }
}

/** Yields the videos to open, the parts of one together. */
function* planVideos(todo: Map<string, SeenClip[]>): Generator<VideoToProbe> {
  const parts = new Map<string, [number, number][]>();
  for (const [clip] of todo.values()) {
    if (clip?.part === undefined) {
      if (clip !== undefined) yield { path: clip.path, parts: null };
      continue;
    }
    const waiting = parts.get(clip.path) ?? [];
    waiting.push([clip.part.start, clip.part.end]);
    if (waiting.length === PARTS_AT_ONCE) yield { path: clip.path, parts: waiting };
    parts.set(clip.path, waiting.length === PARTS_AT_ONCE ? [] : waiting);
  }
  for (const [path, waiting] of parts) if (waiting.length > 0) yield { path, parts: waiting };
}
