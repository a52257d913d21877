/** `fit`: the largest micro-batch that a memory budget holds, forecast first and confirmed by real steps. */

import { UserError } from '../base/errors.ts';
import { formatBytes, parseBytes } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import type { ModelForecast } from '../runtime/replies.ts';
import { withSession } from '../runtime/with-session.ts';

const NUM_STEPS = 2; // Adam's moments exist from the first on
const NUM_STEPS_CUDA = 4; // the third records launches, which then have memory of their own (py/coldframe/train/cuda_graphs.py)
const MAX_MEASURED = 5;

export interface FitRequest {
  config: Config;
  /** null: what is free now. */
  budgetBytes: number | null;
}

/** A way to cut the batch, with what it takes in bytes. */
export interface Cut {
  micro_batches: number;
  forecast_bytes: number;
  /** null: not tried. */
  measured_bytes: number | null;
}

export interface Measured {
  forecast: ModelForecast;
  peak_bytes: number;
  /** Of all loader workers together. */
  workers_bytes: number;
}

export async function fitBatch({ config: whole, budgetBytes }: FitRequest, report: Report): Promise<void> {
  const config = takeShare(whole);
  const { cuts, freeBytes } = await forecastCuts(config);
  const budget = budgetBytes ?? freeBytes;
  const most = budgetBytes === null ? 'is free now' : 'were given';
  report.note(`${formatBytes(budget)} ${most}; ${cuts.length} ways to cut ${describeBatch(whole)}`);
  let workersBytes = 0;
  const found = await searchCut(cuts, budget, async (cut) => {
    const measured = await measureTraining(withCut(config, cut.micro_batches));
    workersBytes = measured.workers_bytes;
    const said = `${formatBytes(measured.peak_bytes)} measured, ${formatBytes(cut.forecast_bytes)} forecast`;
    report.note(`train.micro_batches ${cut.micro_batches}: ${said}`);
    return measured.peak_bytes;
  });
  if (found === undefined) throw new UserError(explainTooSmall(config, cuts.at(-1), budget));
  tell(whole, found, budget, workersBytes, report);
}

/** What one device computes, as a training of its own. */
function takeShare({ train, launch, ...rest }: Config): Config {
  const share = train.batch_size / (launch.devices * launch.nodes);
  return { ...rest, train: { ...train, batch_size: share }, launch: { ...launch, devices: 1, nodes: 1 } };
}

function describeBatch({ train, launch }: Config): string {
  const numDevices = launch.devices * launch.nodes;
  const whole = `a batch of ${train.batch_size}`;
  return numDevices === 1
    ? whole
    : `the ${train.batch_size / numDevices} clips that each of ${numDevices} devices has of ${whole}`;
}

/** Returns the bytes of `--memory`, null without it. */
export function readBudget(given: string | undefined): number | null {
  if (given === undefined) return null;
  const bytes = parseBytes(given);
  if (bytes === undefined || bytes === 0)
    throw new UserError(`--memory  ${given} was given. A size is needed, such as 8GiB or 500MB.`);
  return bytes;
}

/** Returns every cut of the batch into equal parts, the largest parts first, and the memory that is free. */
async function forecastCuts(config: Config): Promise<{ cuts: Cut[]; freeBytes: number }> {
  const { batch_size: batchSize } = config.train;
  const divisors = Array.from({ length: batchSize }, (_, i) => i + 1).filter((parts) => batchSize % parts === 0);
  return withSession({ stallSeconds: config.launch.stall_seconds }, async (session) => {
    const { models } = await session.forecast(divisors.map((parts) => withCut(config, parts)));
    const { free_bytes: freeBytes } = await session.memory(config.launch.device);
    const cuts = divisors.map((parts, i) => ({
      ...{ micro_batches: parts, measured_bytes: null },
      forecast_bytes: models[i]?.memory.training_bytes ?? 0,
    }));
    return { cuts, freeBytes };
  });
}

/** Returns the cut of fewest parts that was measured to fit. What the forecast is off by at one, it is off by nearby. */
export async function searchCut(
  cuts: Cut[],
  budget: number,
  measure: (cut: Cut) => Promise<number>,
): Promise<Cut | undefined> {
  for (let round = 0; round < MAX_MEASURED; round++) {
    const last = cuts.at(-1);
    const choice = cuts.find((cut) => estimateBytes(cut, cuts) <= budget) ?? last;
    if (choice === undefined || choice.measured_bytes !== null) break;
    choice.measured_bytes = await measure(choice);
  }
  return cuts.find(({ measured_bytes }) => measured_bytes !== null && measured_bytes <= budget);
}

function estimateBytes(cut: Cut, cuts: Cut[]): number {
  if (cut.measured_bytes !== null) return cut.measured_bytes;
  const distance = (other: Cut): number => Math.abs(other.forecast_bytes - cut.forecast_bytes);
  const [nearest] = cuts.filter((one) => one.measured_bytes !== null).toSorted((a, b) => distance(a) - distance(b));
  return cut.forecast_bytes + (nearest?.measured_bytes ?? 0) - (nearest?.forecast_bytes ?? 0);
}

/** Takes real steps on made-up clips (or on the stored features) in a runtime of its own; returns its peak. */
export async function measureTraining(config: Config): Promise<Measured> {
  const { data, train, run } = config;
  const trial: Config = {
    ...config,
    data: { ...data, dummy: data.features === null },
    train: { ...train, steps: NUM_STEPS_CUDA },
    run: { ...run, init_from: null, tensorboard: false, wandb: null, mlflow: null },
  };
  return withSession({ stallSeconds: config.launch.stall_seconds }, async (session) => {
    const { models } = await session.forecast([trial]);
    await session.open({
      ...{ mode: 'train', trials: [{ name: 'main', settings: trial }], lists: { train: null, val: null } },
      ...{ classes: null, run_dir: null, resume: 'never' },
    });
    const [forecast] = models;
    if (forecast === undefined) throw new Error('forecast gave no model');
    await session.advance(forecast.memory.device === 'cpu' ? NUM_STEPS : NUM_STEPS_CUDA);
    const { peak_bytes, workers_bytes } = await session.memory(trial.launch.device);
    return { forecast, peak_bytes, workers_bytes };
  });
}

const withCut = (config: Config, parts: number): Config => ({
  ...config,
  train: { ...config.train, micro_batches: parts },
});

function explainTooSmall(config: Config, smallest: Cut | undefined, budget: number): string {
  const { data, model, train } = config;
  const needed = formatBytes(smallest?.measured_bytes ?? smallest?.forecast_bytes ?? 0);
  const frozen = model.backbone.freeze ? '' : 'model.backbone.freeze: true (or train_blocks), ';
  return (
    `memory  ${formatBytes(budget)} do not hold one clip at a time, which takes about ${needed}. ` +
    `Allow more, or lower ${frozen}train.batch_size (${train.batch_size}: its clips lie ready), data.num_frames ` +
    `(${data.num_frames}), model.decoder.num_layers (${model.decoder.num_layers}) or the backbone's preset.`
  );
}

function tell(config: Config, cut: Cut, budget: number, workersBytes: number, report: Report): void {
  const { batch_size } = config.train;
  const { micro_batches, forecast_bytes, measured_bytes } = cut;
  const share = takeShare(config).train.batch_size;
  const micro_batch = share / micro_batches;
  const set = `--set train.micro_batches=${micro_batches}`;
  if (report.json) {
    const bytes = { forecast_bytes, measured_bytes, workers_bytes: workersBytes, budget_bytes: budget };
    report.event({ kind: 'fitted', batch_size, micro_batches, micro_batch, ...bytes, set });
    return;
  }
  report.print(
    [
      `batch     ${plural(share, 'clip')}${share === batch_size ? '' : ' on each device'} in ${plural(micro_batches, 'part')} of ${micro_batch}`,
      `memory    ${formatBytes(measured_bytes ?? 0)} measured, ${formatBytes(forecast_bytes)} forecast, of ${formatBytes(budget)}`,
      `besides   ${formatBytes(workersBytes)} in the loader workers (made-up clips), about 0.1 GiB in Node`,
      `use       ${set}`,
    ].join('\n'),
  );
}
