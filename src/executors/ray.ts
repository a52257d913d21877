/** Jobs of a Ray cluster, through the REST interface of its dashboard. Folders are shared with its nodes. */

import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { UserError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import { RAY_MACHINES } from '../base/paths.ts';
import type { Executor, Job, JobState, SweepExecutor } from './executor.ts';
import { NoAnswer, Remote, type RemoteOptions, writeShell } from './remote.ts';

const GRACE_SECONDS = 60; // Ray's own is 3: too few to save
const ANSWER_SECONDS = 60; // submitting waits until the dashboard has found a node

const jobSchema = z.object({
  submission_id: z.string().nullable(),
  status: z.string(),
  message: z.string().nullish(),
  driver_exit_code: z.number().nullish(),
});
/** Of the cluster, others' jobs among them: of what form those are is no business of ours. */
const listSchema = z.array(z.unknown());
const nameOf = (job: unknown): string =>
  z.object({ submission_id: z.string() }).safeParse(job).data?.submission_id ?? '';
type RayJob = z.output<typeof jobSchema>;

export interface RayOptions extends Omit<RemoteOptions, 'name'> {
  slots: number;
  settings: SweepExecutor['ray'];
  graceSeconds?: number;
}

/** A handle is the key itself. */
export class RayExecutor implements Executor {
  readonly kind = 'ray';
  readonly slots: number;
  readonly #settings: SweepExecutor['ray'];
  readonly #graceSeconds: number;
  readonly #remote: Remote;

  constructor({ slots, settings, graceSeconds, ...remote }: RayOptions) {
    this.slots = slots;
    this.#settings = settings;
    this.#graceSeconds = graceSeconds ?? GRACE_SECONDS;
    this.#remote = new Remote({ ...remote, name: `Ray at ${settings.address}` });
  }

  async start(job: Job): Promise<string> {
    makeFolder(dirname(job.logFile));
    const { num_cpus, num_gpus } = this.#settings;
    const isWide = (job.nodes ?? 1) > 1; // its machines have what is reserved
    const body = {
      entrypoint: writeShell(isWide ? this.#onMachines(job) : job),
      submission_id: job.key,
      ...(num_cpus === null || isWide ? {} : { entrypoint_num_cpus: num_cpus }),
      ...(num_gpus === null || isWide ? {} : { entrypoint_num_gpus: num_gpus }),
      runtime_env: { env_vars: { RAY_JOB_STOP_WAIT_TIME_S: String(this.#graceSeconds) } },
      metadata: { coldframe: job.key },
    };
    await this.#remote.insist(async () => {
      // The same key twice is an error of the server's: an answer may have been lost on its way here.
      if ((await this.#look(job.key)) === undefined) await this.#call('POST', '', body);
    });
    return job.key;
  }

  /** Once on each of its machines, which a placement group holds together. */
  #onMachines(job: Job): Job {
    const { num_cpus, num_gpus, python } = this.#settings;
    const { key, nodes = 1, logFile, env, command } = job;
    const reserved = { nodes, cpus: num_cpus ?? 1, gpus: num_gpus ?? 0 };
    const options = Object.entries({ id: key, ...reserved, log: logFile }).map(([name, value]) => `--${name}=${value}`);
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    return { ...job, command: [python, RAY_MACHINES, ...options, '--', 'env', ...variables, ...command] };
  }

  async find(key: string): Promise<string | undefined> {
    return (await this.#remote.insist(() => this.#look(key))) && key;
  }

  async #look(key: string): Promise<RayJob | undefined> {
    const answer = await this.#call('GET', key);
    return answer === undefined ? undefined : jobSchema.parse(answer);
  }

  async watch(handles: string[]): Promise<Map<string, JobState>> {
    return this.#remote.watch(handles, async () => {
      const jobs = listSchema.parse(await this.#call('GET', '')).filter((job) => handles.includes(nameOf(job)));
      return new Map(jobs.map((job) => [nameOf(job), describeState(jobSchema.parse(job))]));
    });
  }

  /** Ray kills what has not ended after the time of grace; there is no way to make it hurry. */
  async cancel(handle: string): Promise<void> {
    this.#remote.ensure(() => this.#call('POST', `${handle}/stop`, {}));
  }

  async close(): Promise<void> {
    this.#remote.close();
  }

  /** Returns the answer, undefined for what is not there. */
  async #call(method: 'GET' | 'POST', path: string, body?: object): Promise<unknown> {
    const url = new URL(`api/jobs/${path}`, `${this.#settings.address.replace(/\/*$/, '')}/`);
    const { status, content } = await exchange(url, method, body);
    if (status === 404) return undefined;
    const isAway =
      status === 408 || status === 429 || (status >= 500 && method === 'GET') || [502, 503, 504].includes(status);
    if (isAway) throw new NoAnswer(`${url} gave status ${status}: ${shorten(content)}`);
    if (status >= 300) throw new UserError(`${url}  gave status ${status}: ${shorten(content)}. See executor.ray.`);
    try {
      return JSON.parse(content);
    } catch {
      throw new UserError(`${url}  is not Ray's: its answer is no JSON. See executor.ray.address.`);
    }
  }
}

const shorten = (content: string): string => content.trim().split('\n').slice(-3).join('; ').slice(-500);

/** node:http, not fetch: the headers that Node's fetch adds make Ray take it for a browser, which it refuses (405). */
async function exchange(url: URL, method: string, body?: object): Promise<{ status: number; content: string }> {
  const request = url.protocol === 'https:' ? requestHttps : requestHttp;
  const headers = { 'content-type': 'application/json' };
  try {
    return await new Promise((settle, fail) => {
      const signal = AbortSignal.timeout(ANSWER_SECONDS * 1000);
      const call = request(url, { method, headers, signal, agent: false }, (response) => {
        text(response).then((content) => settle({ status: response.statusCode ?? 0, content }), fail);
      });
      call.on('error', fail);
      call.end(body && JSON.stringify(body));
    });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new NoAnswer(message || String(code)); // two addresses that refuse give an error without a text
  }
}

function describeState({ status, message, driver_exit_code: code }: RayJob): JobState {
  if (status === 'PENDING') return { state: 'waiting' };
  if (status === 'STOPPED') return { state: 'ended', code: null, why: 'was stopped' };
  if (status === 'SUCCEEDED') return { state: 'ended', code: 0, why: 'ended with exit code 0' };
  if (status !== 'FAILED') return { state: 'running' };
  if (code === undefined || code === null || code < 0) {
    const why = code
      ? `was killed by signal ${-code}`
      : `was lost: ${message?.split('\n')[0] ?? 'Ray does not say why'}`;
    return { state: 'ended', code: null, why };
  }
  return { state: 'ended', code, why: `ended with exit code ${code}` };
}
