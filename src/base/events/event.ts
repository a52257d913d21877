/** An event as it is told, and with the time of its telling as it is written. */

import type { RunEvent } from './kinds.ts';

export type { RunEvent };
export type Kind = RunEvent['kind'];
export type EventOf<K extends Kind> = Extract<RunEvent, { kind: K }>;
export type TimedEvent = RunEvent & { time: string; step: number | null };

/** A line of events.jsonl, perhaps of another version: what a kind has is looked for. */
export interface StoredEvent {
  time: string;
  kind: string;
  step: number | null;
  [field: string]: unknown;
}

export function stampEvent(event: RunEvent): TimedEvent {
  const { kind, step, ...fields } = event;
  return { time: new Date().toISOString(), kind, step: step ?? null, ...fields } as TimedEvent;
}
