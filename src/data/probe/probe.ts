/** Probes videos: what is known of them from the last time, and the rest through the runtime, several side by side. */
import { Interrupted } from '../../base/errors.ts';
import { countCores } from '../../base/processes.ts';
import type { Stop } from '../../base/stop.ts';
import type { Probe } from '../../runtime/replies.ts';
import type { Session } from '../../runtime/session.ts';
import { withSession } from '../../runtime/with-session.ts';
import { ProbeCache, type ProbeRules, type SeenVideo } from './cache.ts';

const CALL_SECONDS = 1;
/** Videos that a process has waiting: they last longer than a call, mostly. */
const WAITING_EACH = 64;

export interface ProbeRequest<Video extends SeenVideo> {
  videos: Video[];
  rules: ProbeRules;
  stop: Stop;
  /** Called for each video, in no order. */
  tell: (video: Video, probe: Probe) => void;
  progress: (numDone: number, numTotal: number) => void;
}

/** Probes each video once, also one that stands there several times. Returns how many were known, and what kept the rest
 * from being kept. Throws Interrupted when
 * asked to stop: what is found by then is kept. */
export async function probeVideos<Video extends SeenVideo>(
  request: ProbeRequest<Video>,
): Promise<{ numKnown: number; problem: string | undefined }> {
  const { videos, rules, stop } = request;
  const cache = new ProbeCache(rules);
  const todo = new Map<string, Video[]>();
  for (const video of videos) {
    const known = cache.find(video);
    if (known !== undefined) request.tell(video, known);
    else if (todo.get(video.path)?.push(video) === undefined) todo.set(video.path, [video]);
  }
  const numKnown = videos.length - [...todo.values()].reduce((sum, same) => sum + same.length, 0);
  if (todo.size > 0) await withSession({ stop }, (session) => probeRest(session, request, todo, cache));
  return { numKnown, problem: cache.problem };
}

async function probeRest<Video extends SeenVideo>(
  session: Session,
  { rules, stop, tell, progress }: ProbeRequest<Video>,
  todo: Map<string, Video[]>,
  cache: ProbeCache,
): Promise<void> {
  const { reader, sampling, limitSeconds } = rules;
  const [numTotal, numProcesses] = [todo.size, countCores()];
  const waiting = todo.keys();
  let [numDone, numLeft] = [0, 0];
  while (numDone < numTotal) {
    if (stop.signal.aborted)
      throw new Interrupted(
        `stopped; ${numDone} of ${numTotal} videos are probed, and the same command goes on from there`,
      );
    const paths: string[] = [];
    while (numLeft + paths.length < numProcesses * WAITING_EACH) {
      const { value, done } = waiting.next();
      if (done) break;
      paths.push(value);
    }
    const asked = { paths, reader, sampling, seconds: CALL_SECONDS };
    const reply = await session.probe({ ...asked, num_processes: numProcesses, limit_seconds: limitSeconds });
    for (const { path, ...probe } of reply.videos) {
      for (const video of todo.get(path) ?? []) tell(video, probe);
      const [first] = todo.get(path) ?? [];
      if (first !== undefined) cache.add(first, probe);
    }
    cache.flush();
    numLeft = reply.num_left;
    numDone += reply.videos.length;
    progress(numDone, numTotal);
  }
}
