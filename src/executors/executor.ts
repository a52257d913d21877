/** An executor starts, watches and cancels one `coldframe` command somewhere. */

export interface Job {
  /** Unique to the attempt, written to the journal before its start; letters, digits and dashes. */
  key: string;
  /** Program and arguments; the same on every executor. */
  command: string[];
  cwd: string;
  env: Record<string, string>;
  /** Takes what the command prints. */
  logFile: string;
  /** Machines that run the command together, and devices it uses on each; one where none are named. */
  nodes?: number;
  devices?: number;
}

export type JobState =
  | { state: 'waiting' | 'running' }
  /**
   * `code` is null when it is not known how the command ended (lost, killed, cancelled); `why` says what is known. `class` is
   * set where the executor knows what the command could not tell: that it was killed for the memory it took.
   */
  | { state: 'ended'; code: number | null; why: string; class?: 'out_of_memory' };

export interface Executor {
  readonly kind: 'local' | 'slurm' | 'ray';
  /** How many jobs may run at once. */
  readonly slots: number;
  /** Starts a job; returns what finds it again, a line of text for the journal. */
  start(job: Job): Promise<string>;
  /** Starts jobs with one request; returns their handles in the same order. Either all are started or none. */
  startMany?(jobs: Job[]): Promise<string[]>;
  /** What an earlier runner started under this key; undefined when it never came to that. */
  find(key: string): Promise<string | undefined>;
  /** The state of each handle. */
  watch(handles: string[]): Promise<Map<string, JobState>>;
  /** Asks the command to save and end, and does not wait for that; a second call ends it at once. */
  cancel(handle: string): Promise<void>;
  close(): Promise<void>;
}

/** `executor` of a sweep file, with nothing left implicit. */
export interface SweepExecutor {
  kind: 'local' | 'slurm' | 'ray';
  slots: number;
  /** Of one slot; null: what the machine has. */
  memory_bytes: number | null;
  max_attempts: number;
  failure: 'no-new' | 'continue' | 'kill';
  /** A job that shows no progress for so long is lost; null: the configuration's launch.stall_seconds. */
  stall_seconds: number | null;
  poll_seconds: number;
  slurm: {
    partition: string | null;
    account: string | null;
    time: string | number | null;
    gres: string | null;
    cpus_per_task: number | null;
    memory: string | null;
    extra: string[];
  };
  ray: { address: string; num_cpus: number | null; num_gpus: number | null; python: string };
}
