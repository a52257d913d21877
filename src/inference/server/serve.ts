/** `serve`: a checkpoint behind HTTP, until it is asked to stop. */

import { realpathSync, statSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { join } from 'node:path';
import { Interrupted, showPath, UserError } from '../../base/errors.ts';
import { parseBytes } from '../../base/format.ts';
import type { Report } from '../../base/printer.ts';
import { type Stop, stoppable } from '../../base/process/stop.ts';
import { plural } from '../../base/words.ts';
import type { Opened } from '../../runtime/replies.ts';
import { type CheckpointArguments, openCheckpoint } from '../checkpoint-config.ts';
import { describeOpen } from '../opened.ts';
import { chooseToken } from './access.ts';
import { type Answer, App } from './app.ts';
import { renderPage } from './page/page.ts';
import { makeUploadFolder } from './uploads.ts';
import { Worker } from './worker.ts';

const GRACE_SECONDS = 5; // for uploads that are still coming when the server is stopped
/** What others ask all the time, and nobody wants to read of each time. */
const QUIET = new Set(['/healthz', '/metrics']);

export interface ServeArguments extends CheckpointArguments {
  host: string;
  port: number;
  root: string;
  top: number;
  tokenFile: string | undefined;
  maxSize: string;
  /** Seconds. */
  maxDuration: number;
  timeout: number;
  maxRequests: number;
}

/** Answers requests until a signal comes, or until Python cannot be started any more. */
export async function serve(args: ServeArguments, report: Report): Promise<void> {
  const maxBytes = readSize(args.maxSize);
  const root = readRoot(args.root);
  const { token, isNew } = chooseToken(args.host, args.tokenFile);
  const { path, name, config, classes } = openCheckpoint(args, (text) => report.note(text));
  if (config.data.dummy)
    report.warn(`${args.checkpoint}  was trained on noise (data.dummy: true): what it says of a video means nothing.`);
  const page = await renderPage({ maxBytes, maxDuration: args.maxDuration });
  const { folder, remove } = makeUploadFolder();
  try {
    const worker = new Worker({
      request: describeOpen('predict', { name, settings: config }, path, classes, { train: null, val: null }),
      stallSeconds: config.launch.stall_seconds,
      logFile: join(folder, 'python.log'),
      onDeath: (why) => report.event({ kind: 'restarted', step: worker.step ?? 0, why: `Python ${why}` }),
    });
    const app = await App.make({
      ...{ worker, token, root, folder, page, top: args.top },
      numTogether: config.eval.batch_size,
      limits: { maxBytes, maxDuration: args.maxDuration, seconds: args.timeout, maxInHand: args.maxRequests },
      onAnswer: (answer) => tell(answer, report),
      onBug: (error) => report.warn(error instanceof Error ? (error.stack ?? error.message) : String(error)),
    });
    await listen(app, args);
    await run(app, worker, report, ({ step, device }) => {
      const address = `http://${isIPv6(args.host) ? `[${args.host}]` : args.host}:${app.port}`;
      report.event({ kind: 'serving', step, address, checkpoint: showPath(path), device, root });
      if (isNew) report.note(`Token: ${token}\nPage with it: ${address}/#token=${token}`);
    });
  } finally {
    remove();
  }
}

async function listen(app: App, { host, port }: ServeArguments): Promise<void> {
  try {
    await app.server.listen({ host, port });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const found: Record<string, string> = {
      EADDRINUSE: `--port  found ${port}, which another program listens on. Name another one; 0 takes any that is free.`,
      EACCES: `--port  found ${port}, which this user may not listen on. Name one from 1024 on.`,
      EADDRNOTAVAIL: `--host  found ${host}, which is no address of this machine. 0.0.0.0 stands for all of them.`,
      ENOTFOUND: `--host  found ${host}, which is no address. 127.0.0.1 is this machine alone, 0.0.0.0 all of its addresses.`,
    };
    throw new UserError(found[code ?? ''] ?? `--host  ${host}, port ${port}: ${(error as Error).message}`);
  }
}

/** Serves until the first signal, and then answers what is in hand; the second ends it at once. */
async function run(app: App, worker: Worker, report: Report, onReady: (opened: Opened) => void): Promise<void> {
  await stoppable({ killsAt: 'second', said: 'stopped' }, async (stop) => {
    let isKilled = false;
    stop.kill = () => {
      isKilled = true;
      app.server.server.closeAllConnections();
      worker.kill();
    };
    const stopped = abortOf(stop);
    try {
      report.waiting('loading PyTorch ...');
      const opened = await Promise.race([worker.start(), stopped]);
      if (opened !== undefined) {
        for (const note of opened.notes) report.note(note);
        onReady(opened);
        await Promise.race([worker.broken, stopped]);
        report.say(`Stopping: ${plural(app.numInHand, 'request')} in hand.`);
      }
    } finally {
      await app.stop(GRACE_SECONDS);
      await worker.close();
    }
    if (isKilled) throw new Interrupted('stopped');
  });
}

const abortOf = ({ signal }: Stop): Promise<undefined> =>
  new Promise((settle) => {
    signal.addEventListener('abort', () => settle(undefined), { once: true });
  });

function tell({ route, ...answer }: Answer, report: Report): void {
  if (!QUIET.has(route)) report.event({ kind: 'answered', route, ...answer });
}

function readSize(given: string): number {
  const bytes = parseBytes(given);
  if (bytes !== undefined && bytes > 0) return bytes;
  throw new UserError(`--max-size  found ${given}. Allowed: a size such as 500MB or 2GiB.`);
}

function readRoot(given: string): string {
  if (!statSync(given, { throwIfNoEntry: false })?.isDirectory())
    throw new UserError(`--root  ${given} is no folder. Name the one below which videos may be named.`);
  return realpathSync(given);
}
