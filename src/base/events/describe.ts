/** Events in words: a line or two each, for people. */

import { showPath } from '../errors.ts';
import { formatBytes, formatDuration, formatPlace, percent } from '../format.ts';
import { type Accuracy, findInterval, METRICS, mainMetric, mean, showInterval } from '../intervals.ts';
import { keepLine, plural } from '../words.ts';
import type { EventOf, Kind, RunEvent } from './event.ts';

type Words = { [K in Kind]?: (event: EventOf<K>) => string | undefined };

/** What is not known shows as NaN. */
const num = (value: number | null | undefined): number => value ?? Number.NaN;

/** `50.00 % (95 %: 43.1 to 56.9 %)`, a share of so many videos. */
const shareOf = (share: number | null, count: number): string =>
  `${percent(num(share))} (95 %: ${showInterval(findInterval(num(share), count))})`;

/** `top-1 50.00 % (95 %: ...), top-5 ...`, or `mAP 91.20 %` where videos have several labels. */
const accuracies = ({ top1, top5, map }: Accuracy, count: number): string =>
  map == null ? `top-1 ${shareOf(top1, count)}, top-5 ${shareOf(top5, count)}` : `mAP ${percent(map)}`;

/** With what else is to be said of classes. */
function evaluation(e: Accuracy & Pick<EventOf<'evaluated'>, 'num_videos' | 'balanced_accuracy' | 'f1'>): string {
  if (e.map != null) return `mAP ${percent(e.map)}${e.f1 === undefined ? '' : `, F1 ${percent(e.f1)}`}`;
  const { top1, balanced_accuracy: balanced = top1 } = e;
  const isSkewed = Math.abs(num(balanced) - num(top1)) > 5e-5; // in what is printed
  const classes = isSkewed ? `, balanced ${percent(num(balanced))}` : '';
  return `top-1 ${shareOf(top1, e.num_videos)}${classes}, top-5 ${shareOf(e.top5, e.num_videos)}`;
}

const listFiles = ({ map }: Accuracy): string =>
  `result.json, scores.npz${map == null ? ', confusion.csv' : ''} and per-class.csv`;

/** What a clip of a batch is right by. */
const hitsOf = (e: EventOf<'step'>): string => (e.labels === 'multi' ? 'hit@1' : 'top-1');

const DESCRIBE: Words = {
  started: (e) => {
    const { total, trained } = e.parameters;
    const millions = (count: number): string => `${(count / 1e6).toFixed(1)} M`;
    const val = e.num_val === null ? '' : `, ${e.num_val} to evaluate on`;
    const clips = e.num_train === null ? 'generated clips' : `${plural(e.num_train, 'clip')} to train on`;
    return (
      `${e.backbone}: ${millions(total)} parameters, ${millions(trained)} of them trained; ${e.device}, ${e.precision}\n` +
      `${clips}${val}; ${plural(e.steps, 'step')} of ${plural(e.batch_size, 'clip')}` +
      (e.step === 0 ? '' : `, going on at step ${e.step}`)
    );
  },
  step: (e) => {
    const waiting = e.data_seconds / e.step_seconds;
    const trial = e.trial === 'main' ? '' : ` ${e.trial}`;
    return (
      `step ${e.step}/${e.steps}${trial}  loss ${num(e.loss).toFixed(4)}  ${hitsOf(e)} ${percent(num(e.top1))}  lr ${e.lr.toExponential(2)}` +
      `  ${e.clips_per_second.toFixed(1)} clips/s  waiting for data ${percent(waiting)}  ETA ${formatDuration(e.eta_seconds)}`
    );
  },
  evaluated: (e) =>
    `evaluated at step ${e.step}: ${evaluation(e)} on ${plural(e.num_videos, 'video')}, ${plural(e.views, 'view')}` +
    (e.num_bad ? `; ${plural(e.num_bad, 'video')} could not be read` : '') +
    (e.trial === 'main' ? '' : ` (${e.trial})`) +
    (e.output === undefined ? '' : `\n${listFiles(e)} are in ${showPath(e.output)}`),
  exported: (e) => {
    const on = e.is_noise ? `${e.num_compared} clips of noise` : plural(e.num_compared, 'video');
    const accuracy =
      e.top1 === null ? '' : `; top-1 ${shareOf(e.top1[1], e.num_compared)}, of the checkpoint ${percent(e.top1[0])}`;
    const beside =
      e.format === 'onnx' ? 'its card (.md) and an example (.py)' : 'its weights (.safetensors) and its card (.md)';
    return (
      `${e.path}: ${formatBytes(e.size_bytes)}${e.opset === null ? '' : `, opset ${e.opset}`}, ${e.precision}; beside it ${beside}\n` +
      `on ${on} the same class in ${percent(e.agreement)}, largest difference of a probability ${e.largest_difference.toExponential(1)}${accuracy}`
    );
  },
  features_exported: (e) => {
    const shapes = Object.entries(e.tensors).map(([name, shape]) => `${name} ${shape.join(' x ')}`);
    const files = e.form === 'npy' ? 'one .npy file each' : 'features.safetensors';
    const bad = e.num_bad === 0 ? '' : `; ${plural(e.num_bad, 'clip')} could not be read and are left out`;
    return `${e.folder}: ${shapes.join(', ')} after layer ${e.layer}, per ${e.per}, in ${files}; clips.csv names the rows, about.json what they were made of${bad}`;
  },
  averaged: ({ members, ...all }) => {
    const lines = [...members, { path: 'mean of all', ...all }];
    return lines.map((one) => `${accuracies(one, all.num_videos)}  ${one.path}`).join('\n');
  },
  saved: (e) => `saved ${e.path}`,
  bad_video: (e) => `${e.path}  ${e.reason} (skipped, ${e.num_bad} of ${e.num_videos} so far)`,
  left_out: (e) =>
    `step ${e.step}: no clip of the batch can be read, so it is left out (${plural(e.num_left_out, 'step')} so far)`,
  dropped: (e) => `trial ${e.trial} dropped: ${e.why}`,
  rung: (e) => `rung at step ${e.step}: ${e.num_left} of ${plural(e.num_points, 'point')} go on`,
  restarted: (e) => `starting again at step ${e.step}: ${e.why}`,
  interrupted: (e) => `interrupted at step ${e.step}; the same command goes on from there`,
  finished: (e) => ('sweep' in e ? describeSweepEnd(e) : `finished at step ${e.step}`),
  predicted: (e) => {
    if ('error' in e) return `${e.path}  ${e.error}`;
    const place = e.start === undefined ? e.path : `${e.path}  ${formatPlace(e.start)} to ${formatPlace(num(e.end))}`;
    const named = e.classes.map((c) => `  ${percent(num(c.probability)).padStart(9)}  ${c.name}`);
    return [place, ...(named.length === 0 ? ['  no class reaches its threshold'] : named)].join('\n');
  },
  segment: (e) => `${e.path}  ${formatPlace(e.start)} to ${formatPlace(e.end)}  ${percent(e.probability)}  ${e.name}`,
  explained: (e) => {
    const best = [...e.frames].sort((a, b) => b.weight - a.weight).slice(0, 3);
    const where = best.map(({ seconds, weight }) => `${formatPlace(seconds)} (${percent(weight)})`).join(', ');
    const without = [
      ...(e.without_most === null
        ? []
        : [`${percent(e.without_most.probability)} without the frames it looks at most`]),
      ...(e.without_least === null ? [] : [`${percent(e.without_least.probability)} without those it looks at least`]),
    ];
    const answer = [`${e.name} ${percent(e.probability)}`, ...without].join(', ');
    return `  looks at ${where}\n  ${answer}\n  ${e.strip}, ${e.overlay}, ${e.json}`;
  },
  serving: (e) =>
    `Serving ${e.checkpoint} (step ${e.step}, ${e.device}) on ${e.address}\n` +
    `Drop a video on that page, or: curl -F video=@FILE ${e.address}/predict`,
  answered: (e) => {
    const what = `${e.status} ${e.method} ${e.route}${e.path === null ? '' : ` ${e.path}`}`;
    return `${what}  ${e.seconds.toFixed(2)} s${e.error === null ? '' : `  ${e.error}`}`;
  },
  clips_prepared: (e) => {
    const bad = e.num_bad ? `; ${e.num_bad} could not be read and are left out, see bad-videos.tsv` : '';
    return `prepared ${plural(e.num_clips - e.num_bad, 'clip')}, ${formatBytes(e.size_bytes)}${bad}\nTrain with \`--config ${e.config}\`.`;
  },
  listed: (e) => {
    const names = e.classes === null ? '' : `\n${e.classes}  ${plural(e.num_classes, 'class')}`;
    return e.files.map(({ path, num_clips }) => `${path}  ${plural(num_clips, 'clip')}`).join('\n') + names;
  },
  planned: (e) =>
    'sweep' in e
      ? `${e.sweep}: ${plural(e.num_trials, 'trial')} in ${plural(e.num_cohorts, 'cohort')}, ${num(e.ratio).toFixed(1)} times cheaper than each alone (forecast)`
      : undefined,
  attempt: () => undefined,
  cohort: () => undefined,
  launched: (e) => `${e.cohort} started${e.attempt > 1 ? ` (attempt ${e.attempt})` : ''}`,
  ended: (e) => {
    const why = e.why === null ? '' : `: ${e.why}`;
    const isLost = e.outcome === 'retry' && e.class !== 'out_of_memory';
    return `${e.cohort} ${isLost ? 'lost, to be tried again' : e.outcome} after ${formatDuration(e.seconds)}${why}`;
  },
  part: (e) => {
    const how = e.state === 'retry' ? 'lost, to be tried again' : e.state;
    const attempt = e.state === 'started' && e.attempt > 1 ? ` (attempt ${e.attempt})` : '';
    return `${e.part} ${how}${attempt}${e.why === null ? '' : `: ${e.why}`}`;
  },
  split: (e) => `${e.cohort} goes on as ${e.into.join(', ')}: ${e.why}`,
  result: (e) =>
    `${e.cohort} ${e.trial} ${e.state}: ${METRICS[mainMetric(e)]} ${percent(num(e[mainMetric(e)]))}${e.why ? ` (${e.why})` : ''}`,
  final: (e) => `${e.trial} on the validation list: ${accuracies(e, e.num_videos)} on ${plural(e.num_videos, 'video')}`,
  reported: (e) => {
    const files = `${e.path} (${formatBytes(e.size_bytes)}), ${e.csv}, ${e.json}`;
    return 'run_dir' in e ? files : `${plural(e.num_points, 'point')}: ${files}`;
  },
  failed: () => undefined, // printed once, by cli.ts, with what the user can do
};

type Summaries = { [K in Kind]?: (events: [EventOf<K>, ...EventOf<K>[]]) => string };

/** One line for the trials of a cohort; the journal has each. */
const SUMMARIZE: Summaries = {
  step: (events) => {
    const [e] = events;
    const loss = spread(
      events,
      ({ loss }) => loss,
      Math.min,
      (value) => value.toFixed(4),
    );
    const top1 = spread(events, ({ top1 }) => top1, Math.max, percent);
    const rate = `${e.clips_per_second.toFixed(1)} clips/s  waiting for data ${percent(e.data_seconds / e.step_seconds)}`;
    return `step ${e.step}/${e.steps}  ${plural(events.length, 'trial')}  loss ${loss}  ${hitsOf(e)} ${top1}  ${rate}  ETA ${formatDuration(e.eta_seconds)}`;
  },
  evaluated: (events) => {
    const [e] = events;
    const bad = e.num_bad ? `; ${plural(e.num_bad, 'video')} could not be read` : '';
    const metric = mainMetric(e);
    const found = spread(events, (event) => event[metric] ?? null, Math.max, percent);
    return `evaluated ${plural(events.length, 'trial')} at step ${e.step}: ${METRICS[metric]} ${found} on ${plural(e.num_videos, 'video')}, ${plural(e.views, 'view')}${bad}`;
  },
  result: (events) => {
    const states = (['finished', 'pruned', 'diverged', 'failed'] as const).map(
      (state) => [events.filter((event) => event.state === state).length, state] as const,
    );
    const told = states.filter(([number]) => number > 0).map((pair) => pair.join(' '));
    const finished = events.filter((event) => event.state === 'finished' && event.top1 !== null);
    const metric = mainMetric(finished[0] ?? {});
    const best = finished.length === 0 ? '' : spread(finished, (event) => event[metric] ?? null, Math.max, percent);
    return `${events[0].cohort}: ${told.join(', ')}${best && `; ${METRICS[metric]} ${best}`}`;
  },
  dropped: (events) => `dropped ${events.map(({ trial }) => trial).join(', ')}`,
};

type SweepEnd = Extract<EventOf<'finished'>, { sweep: string }>;

function describeSweepEnd({ best, final, ...e }: SweepEnd): string {
  const params = Object.entries(e.params ?? {}).map(([key, value]) => `${key} ${value}`);
  const where = e.selection === 'validation' ? 'the validation list, which it was chosen on' : 'the selection list';
  const lines = [
    `${e.sweep} finished: ${e.run_dir}, ${formatDuration(e.seconds)} of training and evaluation`,
    best &&
      `best: ${best.point} (${params.join(', ')}), ${e.metric === 'map' ? METRICS.map : e.metric} ${percent(best.mean)} on ${where}`,
    final &&
      `its trial ${best?.trial}: ${final.map == null ? `top-1 ${shareOf(final.top1, final.num_videos)}` : accuracies(final, final.num_videos)} on ${plural(final.num_videos, 'video')} of the validation list`,
    e.num_failed > 0 && `${plural(e.num_failed, 'trial')} failed: see \`coldframe sweep report ${e.run_dir}\``,
  ];
  return lines.filter(Boolean).join('\n');
}

function spread<Event extends { trial: string }>(
  events: Event[],
  read: (event: Event) => number | null,
  choose: (...values: number[]) => number,
  show: (value: number) => string,
): string {
  const known = events.filter((event) => read(event) !== null);
  const values = known.map((event) => num(read(event)));
  const best = choose(...values);
  return `best ${show(best)} (${known[values.indexOf(best)]?.trial}), mean ${show(mean(values))}`;
}

/** Returns what a person reads of an event; undefined: nothing, since another line says it. */
export function describeEvent(event: RunEvent): string | undefined {
  const describe = DESCRIBE[event.kind] as ((event: RunEvent) => string | undefined) | undefined;
  return describe === undefined ? JSON.stringify(event) : describe(keepLines(event));
}

/** Explanations may have several lines; a name with a line feed is written so that it is seen. */
const PROSE = new Set(['why', 'reason', 'message']);

/** Returns an event, or a part of one, whose texts stay on their lines: names of files and classes are other people's. */
function keepLines<T>(value: T, key?: string): T {
  if (typeof value === 'string') {
    const text: string = PROSE.has(key ?? '') ? value.replace(/\s*\n\s*/g, ' ') : keepLine(value);
    return text as T;
  }
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map((one) => keepLines(one)) as T;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, keepLines(one, name)])) as T;
}

/** Returns one line for events of one kind, undefined where each has its own. */
export function summarizeEvents(events: RunEvent[]): string | undefined {
  const [first] = events;
  if (first === undefined) return undefined;
  const summarize = SUMMARIZE[first.kind] as ((events: RunEvent[]) => string) | undefined;
  return summarize?.(events.map((event) => keepLines(event)));
}
