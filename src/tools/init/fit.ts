/** Numbers of a configuration that fit the clips and the machine: frames, stride, batch, steps. */

import { formatBytes } from '../../base/format.ts';
import { plural } from '../../base/words.ts';
import type { Facts } from '../../runtime/probe-replies.ts';

const NUM_FRAMES = 8; // as the released recipes of ViT-B/16
const MAX_STRIDE = 16;
/** A stride of 16 is of 25 to 30 frames a second. */
const USUAL_RATE = 30;
/** This share of the clips may be shorter than what is spanned. */
const SHORT_SHARE = 0.1;

export interface Sampling {
  numFrames: number;
  stride: number;
  why: string;
}

/** A clip, or a part of it. */
export interface Measured {
  facts: Pick<Facts, 'num_frames' | 'rate'>;
  start?: number;
  end?: number;
}

const countFrames = ({ facts, start, end }: Measured): number =>
  start === undefined || end === undefined
    ? facts.num_frames
    : Math.min(facts.num_frames, Math.floor((end - start) * facts.rate));

/** Returns how frames are taken: as the recipe does, unless that reaches beyond the end of most clips. */
export function fitSampling(clips: Measured[]): Sampling {
  const frames = clips.map(countFrames).sort((a, b) => a - b);
  const rates = clips.map(({ facts }) => facts.rate).sort((a, b) => a - b);
  const short = frames[Math.floor(frames.length * SHORT_SHARE)] ?? NUM_FRAMES;
  const half = frames[Math.floor(frames.length / 2)] ?? NUM_FRAMES;
  const rate = rates[Math.floor(rates.length / 2)] ?? USUAL_RATE;
  const numFrames = Math.min(NUM_FRAMES, Math.max(1, short));
  const most = Math.max(1, Math.round((MAX_STRIDE * Math.max(rate, USUAL_RATE)) / USUAL_RATE));
  const fitting = numFrames === 1 ? 1 : Math.floor((short - 1) / (numFrames - 1));
  const stride = Math.max(1, Math.min(most, fitting));
  const span = (numFrames - 1) * stride + 1;
  const range = `${frames[0]} to ${frames.at(-1)} frames, half of them ${half} or more`;
  const why = `${numFrames} frames, ${stride} apart: a clip spans ${span} of them (${(span / rate).toFixed(1)} s); the clips have ${range}`;
  return { numFrames, stride, why };
}

const MAX_BATCH = 32;
const NUM_EPOCHS = 30;
const STEPS = { least: 100, most: 20_000 };

export interface Schedule {
  batchSize: number;
  steps: number;
  evalEvery: number;
  why: string;
}

export function fitSchedule(numTrain: number): Schedule {
  let batchSize = MAX_BATCH;
  while (batchSize > numTrain && batchSize > 2) batchSize /= 2;
  const wanted = Math.ceil((NUM_EPOCHS * numTrain) / batchSize / 100) * 100;
  const steps = Math.max(STEPS.least, Math.min(STEPS.most, wanted));
  const epochs = ((steps * batchSize) / numTrain).toFixed(0);
  return {
    batchSize,
    steps,
    evalEvery: Math.max(1, Math.round(steps / 5)),
    why: `${plural(steps, 'step')} of ${batchSize} clips: each clip ${epochs} times`,
  };
}

/** Share of the free memory that is planned with. */
const MEMORY_SHARE = 0.8;

export interface Cut {
  microBatches: number;
  why: string;
}

/** Returns the fewest parts of a batch that fit by the forecast, which names the bytes of each number of parts. */
export function fitMemory(forecasts: { parts: number; bytes: number }[], freeBytes: number, device: string): Cut {
  const fitting = forecasts.find(({ bytes }) => bytes <= MEMORY_SHARE * freeBytes);
  const { parts, bytes } = fitting ?? forecasts.at(-1) ?? { parts: 1, bytes: 0 };
  const found = `about ${formatBytes(bytes)} of ${formatBytes(freeBytes)} that are free (${device})`;
  const why = fitting === undefined ? `${found}: more than fits; \`coldframe fit\` says what does` : found;
  return { microBatches: parts, why };
}
