/** Events: the lines of events.jsonl and of `--json`. */

/** One line of events.jsonl and of `--json`; which fields a kind has is fixed in README, "Events". */
export interface RunEvent {
  kind: string;
  step?: number | null;
  [field: string]: unknown;
}

export type TimedEvent = RunEvent & { time: string };

export function stampEvent(event: RunEvent): TimedEvent {
  const { kind, step, ...fields } = event;
  return { time: new Date().toISOString(), kind, step: step ?? null, ...fields };
}
