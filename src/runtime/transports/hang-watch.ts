/** Finds the rank that hangs: every rank tells each second what it is doing, and what counts are those seconds. A machine
 * that was suspended, or a stopped job, tells nothing and looks like no hang. */
import { z } from 'zod';

/** py/coldframe/serve/exchange.py, Doing. */
export const stateSchema = z.object({
  rank: z.number(),
  host: z.string(),
  pid: z.number(),
  /** Another one each second while the process lives. */
  beats: z.number(),
  /** Another one while its work goes on. */
  progress: z.number(),
  /** In a collective. */
  is_waiting: z.boolean(),
  /** With a request. */
  is_busy: z.boolean(),
});
export type State = z.infer<typeof stateSchema>;

/** What takes as long as it takes, on one rank more than on others, is left to `launch.stall_seconds`. */
const STEADY = ['advance', 'evaluate'];

interface Seen {
  state: State;
  /** Seconds since it last lived; since its work last went on; that it has been in a collective. */
  silent: number;
  idle: number;
  waiting: number;
}

export class HangWatch {
  readonly #seconds: number;
  readonly #tell: (rank: number, how: string) => void;
  readonly #seen = new Map<number, Seen>();
  #isSteady = false;
  #timer: NodeJS.Timeout | undefined;
  #quiet = 0;
  #isOver = false;

  constructor(seconds: number, tell: (rank: number, how: string) => void) {
    this.#seconds = seconds;
    this.#tell = tell;
  }

  /** From now on the first rank, which tells of all, is watched. */
  start(): void {
    this.#timer = setInterval(() => {
      this.#quiet += 1;
      if (this.#quiet < this.#seconds) return;
      const host = this.#seen.get(0)?.state.host;
      this.#found(0, `rank 0${host === undefined ? '' : ` on ${host}`} gave no sign of life for ${this.#seconds} s`);
    }, 1000);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  begin(verb: string): void {
    this.#isSteady = STEADY.includes(verb);
    for (const seen of this.#seen.values()) seen.idle = seen.waiting = 0;
  }

  end(): void {
    this.#isSteady = false;
  }

  take(states: State[]): void {
    this.#quiet = 0;
    for (const state of states) this.#seen.set(state.rank, follow(this.#seen.get(state.rank), state));
    const all = [...this.#seen.values()];
    const silent = all.find((one) => one.silent >= this.#seconds);
    const waiting = this.#isSteady ? all.find((one) => one.waiting >= this.#seconds) : undefined;
    const idle = all.find((one) => one.state.is_busy && !one.state.is_waiting && one.idle >= this.#seconds);
    if (silent !== undefined)
      this.#found(silent.state.rank, `${name(silent)} gave no sign of life for ${this.#seconds} s`);
    else if (waiting !== undefined && idle !== undefined) {
      const how = `made no progress for ${this.#seconds} s (launch.hang_seconds), and ${name(waiting)} waited for it`;
      this.#found(idle.state.rank, `${name(idle)} ${how}`);
    }
  }

  #found(rank: number, how: string): void {
    this.stop();
    if (!this.#isOver) this.#tell(rank, how);
    this.#isOver = true;
  }
}

const name = ({ state }: Seen): string => `rank ${state.rank} on ${state.host}`;

function follow(before: Seen | undefined, state: State): Seen {
  const isStill = before?.state.progress === state.progress;
  const count = (so: boolean, seconds: number | undefined): number => (so && isStill ? (seconds ?? 0) + 1 : 0);
  return {
    state,
    silent: before?.state.beats === state.beats ? before.silent + 1 : 0,
    idle: count(!state.is_waiting, before?.idle),
    waiting: count(state.is_waiting, before?.waiting),
  };
}
