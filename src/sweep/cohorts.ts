/** Which trials share a backbone pass, what that takes, and what it saves. Pure. */

import { UserError } from '../base/errors.ts';
import { groupBy } from '../base/objects.ts';
import type { Config } from '../config/schema.ts';
import type { Bracket, Trial } from '../run/cohort-types.ts';
import { keyOfCohort, keyOfShared } from '../run/sharing.ts';
import { countLeft } from '../train/bracket.ts';

/** What one trial takes; of a cohort the first is there once, of the next two the most counts, the last adds up. */
export interface Forecast {
  shared_bytes: number;
  features_bytes: number;
  transient_bytes: number;
  trial_bytes: number;
  backbone_flops_per_view: number;
  decoder_flops_per_view: number;
}

export interface PlannedCohort {
  /** c0001 ... */
  name: string;
  trials: Trial[];
  /** null: nothing was forecast. */
  forecast_bytes: number | null;
}

export interface GroupOptions {
  /** One for each of `shapesOf(trials).shapes`. */
  forecasts: Forecast[] | null;
  memory_bytes: number | null;
  max_trials: number | null;
  first_index?: number;
}

/** Multiply-adds of a sweep: as cohorts, and each trial on its own to its end. */
export interface Cost {
  together: number;
  alone: number;
  ratio: number;
  /** What is saved by sharing alone, without what a bracket prunes. */
  sharing_ratio: number;
}

/** Returns a text that is equal for trials of equal tensors: numbers like the learning rate take no memory. */
function shapeKeyOf(settings: Config): string {
  const { model, train } = settings;
  const { mlp_dropout: _, query_init: __, ...decoder } = model.decoder;
  return `${keyOfShared(settings)}${JSON.stringify([decoder, model.temporal, train.ema_decay === null])}`;
}

/** Returns the settings that differ in what they take, and which of them each trial has. */
export function shapesOf(trials: Trial[]): { shapes: Config[]; shapeOf: number[] } {
  const shapes: Config[] = [];
  const indices = new Map<string, number>();
  const shapeOf = trials.map(({ settings }) => {
    const key = shapeKeyOf(settings);
    const index = indices.get(key) ?? shapes.push(settings) - 1;
    indices.set(key, index);
    return index;
  });
  return { shapes, shapeOf };
}

/** Settings of trials that read the same features; there is at least one. */
export type Shapes = [Config, ...Config[]];

/** Returns the shapes of the trials, those together that may share a cohort. */
export function groupShapes(trials: Trial[]): Shapes[] {
  const groups = groupBy(shapesOf(trials).shapes, keyOfShared);
  return [...groups.values()].flatMap(([first, ...others]) => (first === undefined ? [] : [[first, ...others]]));
}

/** Returns as few cohorts as memory and `max_trials` allow, in the order of their first trials. Raises UserError. */
export function groupTrials(trials: Trial[], options: GroupOptions): PlannedCohort[] {
  const { forecasts, first_index = 1 } = options;
  const { shapeOf } = shapesOf(trials);
  const forecastOf = new Map(trials.map(({ name }, index) => [name, forecasts?.[shapeOf[index] ?? 0]]));
  const bytesOf = (group: Trial[]) =>
    forecasts === null ? null : countBytes(group.flatMap(({ name }) => forecastOf.get(name) ?? []));
  const parts = [...groupBy(trials, keyOfCohort).values()].flatMap((group) => splitGroup(group, options, bytesOf));
  return parts.map((part, index) => ({
    name: `c${String(first_index + index).padStart(4, '0')}`,
    trials: part,
    forecast_bytes: bytesOf(part),
  }));
}

function countBytes(parts: Forecast[]): number {
  let [shared, features, transient, own] = [0, 0, 0, 0];
  for (const part of parts) {
    shared = Math.max(shared, part.shared_bytes);
    features = Math.max(features, part.features_bytes);
    transient = Math.max(transient, part.transient_bytes);
    own += part.trial_bytes;
  }
  return shared + features + transient + own;
}

/** Returns the fewest parts of near-equal size that fit; the seeds of a point stay together. */
function splitGroup(trials: Trial[], options: GroupOptions, bytesOf: (group: Trial[]) => number | null): Trial[][] {
  const { memory_bytes: memory, max_trials: maxTrials } = options;
  const points = [...groupBy(trials, ({ point }) => point).values()];
  const takesTooMuch = (part: Trial[]) => memory !== null && (bytesOf(part) ?? 0) > memory;
  const fits = (part: Trial[]) => part.length <= (maxTrials ?? Infinity) && !takesTooMuch(part);
  const largest = points.find(takesTooMuch);
  if (largest !== undefined) throw new UserError(explainTooLarge(largest, bytesOf(largest) ?? 0, memory ?? 0));
  // Not fewer than these; from here on a part more is tried until all fit.
  let count = maxTrials === null ? 1 : Math.ceil(trials.length / maxTrials);
  for (; count < points.length; count++) {
    const parts = divide(points, count);
    if (parts.every(fits)) return parts;
  }
  return points;
}

/** Returns the points, in order, in so many parts whose lengths differ by one at most. */
function divide(points: Trial[][], count: number): Trial[][] {
  const startOf = (part: number) => Math.floor((part * points.length) / count);
  return Array.from({ length: count }, (_, part) => points.slice(startOf(part), startOf(part + 1)).flat());
}

function explainTooLarge(trials: Trial[], bytes: number, memory: number): string {
  const [first] = trials;
  const who = trials.length > 1 ? `${trials.length} seeds, which stay together,` : 'alone';
  const gib = (size: number) => `${(size / 2 ** 30).toFixed(2)} GiB`;
  const help = `Raise train.micro_batches${trials.length > 1 ? ', give fewer seeds' : ''} or more executor.memory.`;
  return `point ${first?.point} (${JSON.stringify(first?.params)})  ${who} needs ${gib(bytes)}, more than the ${gib(memory)} of a slot. ${help}`;
}

/** Returns two halves, points whole where there are several; null for one trial. */
export function splitCohort(trials: Trial[]): [Trial[], Trial[]] | null {
  if (trials.length < 2) return null;
  const points = [...groupBy(trials, ({ point }) => point).values()];
  const [left = [], right = []] = divide(points.length > 1 ? points : trials.map((trial) => [trial]), 2);
  return [left, right];
}

/** Returns what cohorts cost against trials alone; `forecastOf` is by the name of a trial. */
export function forecastCost(
  cohorts: PlannedCohort[],
  forecastOf: (trial: string) => Forecast,
  bracket: Bracket | null,
): Cost {
  let [together, shared, alone] = [0, 0, 0];
  for (const { trials } of cohorts) {
    const [first] = trials;
    if (first === undefined) continue;
    const forecasts = trials.map(({ name }) => forecastOf(name));
    const backbone = forecasts[0]?.backbone_flops_per_view ?? 0;
    // Forward once, and twice that backward.
    const decoders = 3 * forecasts.reduce((sum, one) => sum + one.decoder_flops_per_view, 0);
    const { freeze } = first.settings.model.backbone;
    const pass = freeze ? backbone : 3 * backbone;
    const { steps, batch_size } = first.settings.train;
    const numPoints = new Set(trials.map(({ point }) => point)).size;
    for (const { length, kept } of listSegments(steps, numPoints, bracket))
      together += length * batch_size * (pass + decoders * kept);
    shared += steps * batch_size * (pass + decoders);
    alone += steps * batch_size * (pass * trials.length + decoders);
  }
  return { together, alone, ratio: alone / together, sharing_ratio: alone / shared };
}

/** Returns the steps between rungs, and the share of the points that train there. */
function listSegments(steps: number, numPoints: number, bracket: Bracket | null): { length: number; kept: number }[] {
  const segments: { length: number; kept: number }[] = [];
  let [start, left] = [0, numPoints];
  for (const rung of [...(bracket?.rungs ?? []), steps]) {
    segments.push({ length: rung - start, kept: left / numPoints });
    start = rung;
    left = countLeft(left, bracket?.keep ?? 1);
  }
  return segments;
}
