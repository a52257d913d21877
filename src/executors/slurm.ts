/** Jobs under Slurm, through its commands alone: no database of accounts is needed. Folders are shared with the nodes. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ExecaError, execa } from 'execa';
import { UserError } from '../base/errors.ts';
import { makeFolder, writeWhole } from '../base/files.ts';
import type { Executor, Job, JobState, SweepExecutor } from './executor.ts';
import { NoAnswer, Remote, type RemoteOptions, writeShell } from './remote.ts';

const GRACE_SECONDS = 60;
const PAUSE_SECONDS = 3; // sooner, on the same node, Slurm takes the start for the one that it has just revoked
const COMMAND_SECONDS = 120;

/** What Slurm's commands say when the controller is away, starting or too busy. */
const SILENCE =
  /contact slurm controller|timed out|connection (refused|reset|failure)|temporarily|zero bytes were transmitted|transport endpoint|standby mode|try again|unexpected message/i;

const WAITING = ['PENDING', 'REQUEUED', 'REQUEUE_FED', 'REQUEUE_HOLD', 'SPECIAL_EXIT', 'RESV_DEL_HOLD', 'SUSPENDED'];
const ENDED: Record<string, string> = {
  COMPLETED: 'ended with exit code 0',
  FAILED: 'failed',
  CANCELLED: 'was cancelled',
  TIMEOUT: 'reached its time limit (executor.slurm.time)',
  DEADLINE: 'reached its deadline',
  NODE_FAIL: 'lost its node',
  BOOT_FAIL: 'got a node that did not boot',
  PREEMPTED: 'was preempted',
  REVOKED: 'was revoked',
  OUT_OF_MEMORY: 'took more memory than Slurm gave it (executor.slurm.memory)',
};
const SIGKILL = 9;

export interface SlurmOptions extends Omit<RemoteOptions, 'name'> {
  slots: number;
  /** Takes the scripts of arrays. */
  dir: string;
  settings: SweepExecutor['slurm'];
  graceSeconds?: number;
}

/** A line of squeue. */
interface Row {
  /** `JOB`, or `JOB_TASK` of an array. */
  id: string;
  /** Its own number, of a task of an array too. */
  job: string;
  name: string;
  state: string;
  /** As wait(2) gives it: the exit code in the upper byte, the signal in the lower. */
  status: number;
  numRestarts: number;
  reason: string;
}

/** A handle is `ID NAME`: after a loss of its state the controller may give a number again. */
const parseHandle = (handle: string): { id: string; name: string } => {
  const [id = '', name = ''] = handle.split(' ');
  return { id, name };
};

export class SlurmExecutor implements Executor {
  readonly kind = 'slurm';
  readonly slots: number;
  readonly #dir: string;
  readonly #settings: SweepExecutor['slurm'];
  readonly #graceSeconds: number;
  readonly #remote: Remote;
  /** Restarts that were helped, by job. */
  readonly #numHurried = new Map<string, number>();
  readonly #cancelled = new Map<string, NodeJS.Timeout>();

  constructor({ slots, dir, settings, graceSeconds, ...remote }: SlurmOptions) {
    this.slots = slots;
    this.#dir = dir;
    this.#settings = settings;
    this.#graceSeconds = graceSeconds ?? GRACE_SECONDS;
    this.#remote = new Remote({ ...remote, name: 'Slurm' });
  }

  async start(job: Job): Promise<string> {
    return (await this.startMany([job])).join();
  }

  async startMany(jobs: Job[]): Promise<string[]> {
    const [first] = jobs;
    if (first === undefined) return [];
    for (const { logFile } of jobs) makeFolder(dirname(logFile));
    const script = writeScript(jobs);
    // The array has one name: this file tells which keys are in it.
    if (jobs.length > 1) {
      writeWhole(join(this.#dir, `${first.key}.sh`), script);
    }
    const id = await this.#submit(first, jobs.length, script);
    return jobs.length === 1 ? [`${id} ${first.key}`] : jobs.map((_, index) => `${id}_${index + 1} ${first.key}`);
  }

  /** Returns the number of the job. No answer may come although the job was taken: look before trying again. */
  async #submit(first: Job, count: number, script: string): Promise<string> {
    const { nodes = 1 } = first;
    const wide = nodes === 1 ? [] : [`--nodes=${nodes}`, '--ntasks-per-node=1'];
    const options = [...describeOptions(this.#settings), ...wide];
    const log = count === 1 ? first.logFile : join(this.#dir, `${first.key}.log`);
    const args = ['--parsable', `--job-name=${first.key}`, '--requeue', '--open-mode=append'];
    args.push(`--output=${log.replaceAll('%', '%%')}`, ...(count === 1 ? [] : [`--array=1-${count}`]), ...options);
    let isFirst = true;
    return this.#remote.insist(async () => {
      const found = isFirst ? undefined : (await this.#listNamed(first.key)).at(-1);
      isFirst = false;
      if (found !== undefined) return found.id.replace(/_.*/, '');
      const { stdout } = await callSlurm('sbatch', args, script);
      return stdout.trim().replace(/;.*/, ''); // JOB;CLUSTER
    });
  }

  async find(key: string): Promise<string | undefined> {
    const { name, task } = this.#locate(key);
    const rows = await this.#remote.insist(() => this.#listNamed(name));
    const mine = task === undefined ? rows : rows.filter(({ id }) => id.endsWith(`_${task}`));
    const last = mine.at(-1);
    return last && `${last.id} ${name}`;
  }

  /** Returns the name that a key's job was submitted under, and its place in an array. */
  #locate(key: string): { name: string; task?: string } {
    const names = existsSync(this.#dir) ? readdirSync(this.#dir).filter((name) => name.endsWith('.sh')) : [];
    for (const name of names) {
      const lines = readFileSync(join(this.#dir, name), 'utf8').split('\n');
      const task = lines.find((line) => line.endsWith(`) # ${key}`))?.split(')')[0];
      if (task !== undefined) return { name: name.slice(0, -'.sh'.length), task };
    }
    return { name: key };
  }

  #listNamed(name: string): Promise<Row[]> {
    return listJobs([`--name=${name}`, '--me']);
  }

  async watch(handles: string[]): Promise<Map<string, JobState>> {
    return this.#remote.watch(handles, (asked) => this.#ask(asked));
  }

  async #ask(handles: string[]): Promise<Map<string, JobState>> {
    const ids = handles.map((handle) => parseHandle(handle).id);
    const rows = await listJobs([`--jobs=${ids.join(',')}`]);
    const ours = rows.filter(({ id, name }) => handles.includes(`${id} ${name}`));
    for (const row of ours) this.#hurry(row);
    const states = ours.map(async (row) => [`${row.id} ${row.name}`, describeState(await nameMemory(row))] as const);
    return new Map(await Promise.all(states));
  }

  /** A job that was requeued would wait for two minutes; one that could not be launched, for an administrator. */
  #hurry({ id, name, state, numRestarts, reason }: Row): void {
    if (state !== 'PENDING') return;
    if (isHeld(reason)) this.#remote.ensure(() => callSlurm('scancel', [`--name=${name}`, id]));
    else if (numRestarts > (this.#numHurried.get(id) ?? 0) && reason === 'BeginTime') {
      this.#numHurried.set(id, numRestarts);
      this.#remote.ensure(() => callSlurm('scontrol', ['update', `jobid=${id}`, `StartTime=now+${PAUSE_SECONDS}`]));
    }
  }

  async cancel(handle: string): Promise<void> {
    const { id, name } = parseHandle(handle);
    const job = [`--name=${name}`, id]; // a number alone may be another's by now
    const kill = (): void => this.#remote.ensure(() => callSlurm('scancel', job));
    if (this.#cancelled.has(handle)) return kill();
    this.#cancelled.set(handle, setTimeout(kill, this.#graceSeconds * 1000).unref());
    // The waiting one first: it may begin between the two.
    this.#remote.ensure(async () => {
      await callSlurm('scancel', ['--state=PENDING', ...job]);
      await callSlurm('scancel', ['--batch', '--signal=TERM', ...job]);
    });
  }

  async close(): Promise<void> {
    for (const timer of this.#cancelled.values()) clearTimeout(timer);
    this.#remote.close();
  }
}

function describeOptions({
  partition,
  account,
  time,
  gres,
  cpus_per_task,
  memory,
  extra,
}: SweepExecutor['slurm']): string[] {
  const named = { partition, account, time, gres, 'cpus-per-task': cpus_per_task, mem: memory };
  const given = Object.entries(named).filter(([, value]) => value !== null);
  return [...given.map(([name, value]) => `--${name}=${value}`), ...extra];
}

/** Returns what the nodes run. It becomes the command, which gets Slurm's signals, and whose exit code is the job's. */
function writeScript(jobs: Job[]): string {
  const cases = jobs.map((job, index) => `${index + 1}) # ${job.key}\n  ${writeShell(onNodes(job))} ;;`);
  const { devices = 1 } = jobs[0] ?? {};
  return `#!/bin/sh
# Slurm starts it again by itself when a node is lost: the later start takes the run folder over.
export COLDFRAME_RESTART="\${SLURM_RESTART_COUNT:-0}"
if [ -n "$SLURM_CPUS_PER_TASK" ]; then
  threads=$((SLURM_CPUS_PER_TASK / ${devices}))
  export OMP_NUM_THREADS="\${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
fi
case "\${SLURM_ARRAY_TASK_ID:-1}" in
${cases.join('\n')}
esac
`;
}

/** Once on each node. srun takes no cores over by itself, ends all at SIGTERM, and hands SIGUSR1 on, at which commands save. */
function onNodes(job: Job): Job {
  const { nodes = 1 } = job;
  if (nodes === 1) return job;
  const script = `cores=\${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}
srun --nodes=${nodes} --ntasks-per-node=1 $cores "$@" & child=$!
trap 'kill -USR1 $child' TERM USR1
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
exit $code`;
  return { ...job, command: ['/bin/sh', '-c', script, 'sh', ...job.command] };
}

const isHeld = (reason: string): boolean => /launch.failed.requeued.held/i.test(reason);

function describeState({ state, status, reason }: Row): JobState {
  if (isHeld(reason)) return { state: 'ended', code: null, why: 'could not be launched on its node' };
  if (WAITING.includes(state)) return { state: 'waiting' };
  const why = ENDED[state];
  if (why === undefined) return { state: 'running' };
  const [code, signal] = [status >> 8, status & 127];
  if (state === 'FAILED' && signal !== 0) return { state: 'ended', code: null, why: `was killed by signal ${signal}` };
  if (state === 'FAILED') return { state: 'ended', code, why: `ended with exit code ${code}` };
  if (state === 'OUT_OF_MEMORY') return { state: 'ended', code: null, why, class: 'out_of_memory' };
  return { state: 'ended', code: state === 'COMPLETED' ? 0 : null, why };
}

/** Where Slurm itself watches the memory (OverMemoryKill), a job ends as killed, and only its output says what for. */
async function nameMemory(row: Row): Promise<Row> {
  if (row.state !== 'FAILED' || (row.status & 127) !== SIGKILL) return row;
  const [log = ''] = await callSqueue([`--jobs=${row.job}`], 'StdOut:4096');
  const said = existsSync(log) ? readFileSync(log, 'utf8') : '';
  const isOver = new RegExp(`\\b${row.job}(\\.\\w+)? exceeded memory limit`).test(said);
  return isOver ? { ...row, state: 'OUT_OF_MEMORY' } : row;
}

async function listJobs(which: string[]): Promise<Row[]> {
  const format = 'JobArrayID:40,JobID:16,Name:100,State:24,exit_code:12,restartcnt:8,Reason:80';
  const rows = (await callSqueue(which, format)).map(parseRow);
  return rows.sort((a, b) => Number.parseInt(a.id, 10) - Number.parseInt(b.id, 10));
}

/** Returns a line for each job that the controller knows, the ended ones of the last minutes (MinJobAge) among them. */
async function callSqueue(which: string[], format: string): Promise<string[]> {
  try {
    const { stdout } = await callSlurm('squeue', [...which, '--array', '--states=all', '--noheader', '-O', format]);
    return stdout.split('\n').flatMap((line) => line.trim() || []);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (/invalid job id/i.test(error.message)) return []; // it knows none of them
    throw new NoAnswer(error.message);
  }
}

function parseRow(line: string): Row {
  const [id = '', job = '', name = '', state = '', status = '', restarts = '', ...reason] = line.split(/\s+/);
  return { id, job, name, state, status: Number(status), numRestarts: Number(restarts), reason: reason.join(' ') };
}

/** Slurm has answered, and will not do it. */
class Refused extends UserError {}

async function callSlurm(program: string, args: string[], input = ''): Promise<{ stdout: string }> {
  const options = { env: { LC_ALL: 'C' }, timeout: COMMAND_SECONDS * 1000, input, cleanup: false };
  try {
    return await execa(program, args, options);
  } catch (error) {
    throw error instanceof ExecaError ? explainFailure(program, error) : error;
  }
}

function explainFailure(program: string, { code, isTerminated, stderr, shortMessage }: ExecaError): Error {
  if (code === 'ENOENT')
    return new UserError(`${program}  was not found. executor.kind slurm needs the commands of Slurm on this machine.`);
  const text =
    String(stderr ?? '')
      .trim()
      .replace(/\s*\n\s*/g, '; ') || shortMessage;
  if (isTerminated || SILENCE.test(text)) return new NoAnswer(text);
  return new Refused(`${program}  ${text}. See executor.slurm in the sweep file.`);
}
