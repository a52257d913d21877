/** The session's verbs: the TypeScript side of py/coldframe/session/. */

import { z } from 'zod';
import { analysisSchema, picturesSchema } from './analysis-replies.ts';
import { pairedSchema } from './pair-reply.ts';
import { explainSchema, predictSchema, timelineOpenedSchema, timelineSchema } from './prediction-replies.ts';
import { probedSchema, type Sampling } from './probe-replies.ts';
import {
  advanceSchema,
  clipsForecastSchema,
  clipsPreparedSchema,
  compareExportSchema,
  describeSchema,
  ensembleSchema,
  evaluateSchema,
  exportSchema,
  featuresBuiltSchema,
  featuresCheckedSchema,
  featuresExportedSchema,
  featuresForecastSchema,
  featuresMergedSchema,
  forecastSchema,
  inspectSchema,
  meetSchema,
  memorySchema,
  openSchema,
} from './replies.ts';
import type { Runtime } from './runtime.ts';

export interface OpenRequest {
  mode: 'train' | 'evaluate' | 'predict';
  trials: { name: string; settings: object }[];
  /** Checked lists in normalised form (src/data/list.ts). */
  lists: { train: string | null; val: string | null };
  classes: string[] | null;
  run_dir: string | null;
  /** auto, never, or the path of a checkpoint. */
  resume: string;
}

/** A part of a large job: the `index`-th of `count`, from 0 on, and the folder where it keeps what it has done. */
export interface Share {
  dir: string;
  index: number;
  count: number;
}

export interface VideoToProbe {
  path: string;
  /** Start and end of each in microseconds; null: the whole file. */
  parts: [number, number][] | null;
}

export interface ProbeRequest {
  videos: VideoToProbe[];
  reader: string;
  /** null: any frame may be asked for. */
  sampling: Sampling | null;
  /** The call is about so long, or shorter where no video is left. */
  seconds: number;
  num_processes: number;
  /** A video, or a part of one, that takes longer is told as slow. */
  limit_seconds: number;
}

/** Which features are exported. */
export interface FeatureChoice {
  /** 1: the output of the first block, -1: of the last, 0: what enters the first. */
  layer: number;
  /** With the backbone's final norm. */
  isNormed: boolean;
  per: 'frame' | 'clip';
  form: 'safetensors' | 'npy';
}

export interface TimelineRequest {
  path: string;
  is_stream: boolean;
  part: [number, number] | null;
  /** null: as long as a clip that was trained on. */
  window_seconds: number | null;
  /** Of a window with the next one, 0..1. */
  overlap: number;
  smooth_seconds: number;
  /** From which probability on a class makes a segment; null: what the checkpoint chose, else 0.5. */
  threshold: number | null;
}

export interface ExplainRequest {
  path: string;
  /** In microseconds. */
  part: [number, number] | null;
  /** From 1; null: the mean of all. */
  layer: number | null;
  head: number | null;
  /** A PNG of the clip's frames. */
  strip: string | null;
  /** An MP4 of the video from the clip's first frame to its last. */
  overlay: string | null;
}

export class Session {
  readonly runtime: Runtime;

  constructor(runtime: Runtime) {
    this.runtime = runtime;
  }

  /** Imports torch. What it takes to do so can be had while other things are read: no answer has to be waited for. */
  load() {
    return this.runtime.call('load', {}, z.object({}));
  }

  describe(settings: object | null) {
    return this.runtime.call('describe', { settings }, describeSchema);
  }

  /** Whether processes of this machine can train together; it takes seconds. */
  meet() {
    return this.runtime.call('meet', {}, meetSchema);
  }

  /** What each of these configurations will take, quickly: nothing is built. */
  forecast(configs: object[]) {
    return this.runtime.call('forecast', { trials: configs }, forecastSchema);
  }

  /** The peak so far of Python and of its loader workers, and what is free. `device` is launch.device. */
  memory(device: string) {
    return this.runtime.call('memory', { device }, memorySchema);
  }

  /** Takes a run folder, before anything is written there; needs no torch. The note is of a disk that keeps no locks. */
  lock(runDir: string) {
    return this.runtime.call('lock', { run_dir: runDir }, z.object({ note: z.string().nullable() }));
  }

  open(request: OpenRequest) {
    return this.runtime.call('open', request, openSchema);
  }

  advance(steps: number) {
    return this.runtime.call('advance', { steps }, advanceSchema);
  }

  /** Goes on with the evaluation for about so long; at its end there are `results`, and scores in the folder. */
  evaluate(seconds: number, output: string) {
    return this.runtime.call('evaluate', { seconds, output }, evaluateSchema);
  }

  ensemble(paths: string[]) {
    return this.runtime.call('ensemble', { paths }, ensembleSchema);
  }

  /** Two files of scores of one trial each, video by video; needs no torch. */
  pair(first: string, other: string, isSameList: boolean) {
    return this.runtime.call('pair', { first, other, is_same_list: isSameList }, pairedSchema);
  }

  /** Takes trials out of the cohort; the others do not notice. */
  drop(trials: string[]) {
    return this.runtime.call('drop', { trials }, z.object({ trials: z.array(z.string()) }));
  }

  save() {
    return this.runtime.call('save', {}, z.object({ path: z.string(), step: z.number() }));
  }

  /** From now on the checkpoints of these steps stay beside the newest, and `best` names one of them. */
  spare(steps: number[], best: number | null) {
    return this.runtime.call('spare', { steps, best }, z.object({}));
  }

  convert(to: 'coldframe' | 'upstream', output: string) {
    const schema = z.object({ path: z.string(), step: z.number(), notes: z.array(z.string()) });
    return this.runtime.call('convert', { to, output }, schema);
  }

  /** `part`: in microseconds; null: the whole file. */
  predict(videos: { path: string; part: { start: number; end: number } | null }[], top: number) {
    const parts = videos.map(({ part }) => (part === null ? null : [part.start, part.end]));
    return this.runtime.call('predict', { paths: videos.map(({ path }) => path), top, parts }, predictSchema);
  }

  /** Opens one video, or a stream, to be gone through in windows; one at a time is open. `part`: in microseconds. */
  openTimeline(request: TimelineRequest) {
    return this.runtime.call('open_timeline', request, timelineOpenedSchema);
  }

  /** Goes on through it for about so long. */
  advanceTimeline(seconds: number, top: number) {
    return this.runtime.call('advance_timeline', { seconds, top }, timelineSchema);
  }

  /** Ends it where it is: what was seen until then counts as all. */
  closeTimeline(top: number) {
    return this.runtime.call('close_timeline', { top }, timelineSchema);
  }

  /** Where the decoder looks in the clip in the middle of a video; draws it, where files are named. */
  explain(request: ExplainRequest) {
    return this.runtime.call('explain', request, explainSchema);
  }

  /** Writes the only trial as FILE.onnx or FILE.pt2, which then knows `about`. */
  export(file: string, precision: string, about: object) {
    return this.runtime.call('export', { file, precision, about }, exportSchema);
  }

  /** Goes on with comparing that file with the trial for about so long, on at most so many videos. */
  compareExport(file: string, seconds: number, most: number) {
    return this.runtime.call('compare_export', { file, seconds, most }, compareExportSchema);
  }

  /** Goes on for about so long with writing features of the list into a folder; whole when there are `tensors`. */
  exportFeatures(seconds: number, folder: string, choice: FeatureChoice) {
    const { layer, isNormed, per, form } = choice;
    const request = { seconds, folder, layer, is_normed: isNormed, per, form };
    return this.runtime.call('export_features', request, featuresExportedSchema);
  }

  /** What the feature cache of trials that share it holds; a UserError where `open` would refuse it. */
  checkFeatures(configs: object[], lists: OpenRequest['lists']) {
    return this.runtime.call('check_features', { trials: configs, lists }, featuresCheckedSchema);
  }

  /** What the feature cache of a configuration takes and saves; it can then be built. */
  forecastFeatures(settings: object, lists: OpenRequest['lists']) {
    return this.runtime.call('forecast_features', { settings, lists }, featuresForecastSchema);
  }

  /** Goes on with the feature cache for about so long. */
  buildFeatures(seconds: number) {
    return this.runtime.call('build_features', { seconds }, featuresBuiltSchema);
  }

  /** What it takes, without asking this machine how fast it is. */
  planFeatures(settings: object, lists: OpenRequest['lists']) {
    return this.runtime.call('plan_features', { settings, lists }, featuresForecastSchema);
  }

  /** The `index`-th of `count` parts of a feature cache can then be built, in a folder of its own. */
  shareFeatures(settings: object, lists: OpenRequest['lists'], { dir: folder, index, count }: Share) {
    const request = { settings, lists, folder, index, count };
    return this.runtime.call('share_features', request, z.object({ notes: z.array(z.string()) }));
  }

  /** Goes on for about so long with making one cache of its parts, and verifying it. */
  mergeFeatures(settings: object, lists: OpenRequest['lists'], folders: string[], mostClips: number, seconds: number) {
    const request = { settings, lists, folders, most_clips: mostClips, seconds };
    return this.runtime.call('merge_features', request, featuresMergedSchema);
  }

  /** Writes what is computed of the feature cache so far. */
  saveFeatures() {
    return this.runtime.call('save_features', {}, z.object({}));
  }

  /** What re-encoding the clips of these lists into a folder takes; it can then be begun. */
  forecastClips(settings: object, lists: OpenRequest['lists'], folder: string) {
    return this.runtime.call('forecast_clips', { settings, lists, folder }, clipsForecastSchema);
  }

  /** The `index`-th of `count` parts of the re-encoding can then be begun; what it has done is kept in the folder `part`. */
  shareClips(settings: object, lists: OpenRequest['lists'], folder: string, share: Share) {
    const { dir, index, count } = share;
    const request = { settings, lists, folder, part: dir, index, count };
    return this.runtime.call('share_clips', request, z.object({}));
  }

  /** Takes over what parts have re-encoded; `bad` has the reasons of the videos that they could not read. What of the rest is
   * not there can then be prepared. */
  mergeClips(
    settings: object,
    lists: OpenRequest['lists'],
    folder: string,
    parts: string[],
    bad: Record<string, string>,
  ) {
    return this.runtime.call('merge_clips', { settings, lists, folder, parts, bad }, clipsPreparedSchema);
  }

  /** Goes on with re-encoding for about so long. */
  prepareClips(seconds: number) {
    return this.runtime.call('prepare_clips', { seconds }, clipsPreparedSchema);
  }

  /** Takes more videos to probe, and tells the clips that are done. Needs no torch. */
  probe(request: ProbeRequest) {
    return this.runtime.call('probe', request, probedSchema);
  }

  /** How long videos are, without decoding them. Needs no torch. */
  measure(paths: string[]) {
    const measured = z.object({
      path: z.string(),
      duration_seconds: z.number().nullable(),
      reason: z.string().nullable(),
    });
    return this.runtime.call('measure', { paths }, z.object({ videos: z.array(measured) }));
  }

  /** What a file of weights or a checkpoint folder is. */
  inspect(path: string) {
    return this.runtime.call('inspect', { path }, inspectSchema);
  }

  /** What a file of scores tells; `listed` names its videos where it does not. Needs no torch. */
  analyse(request: { file: string; listed: string | null; fit: string | null; num_clips: number }) {
    return this.runtime.call('analyse', request, analysisSchema);
  }

  /** A strip of frames of each video. Needs no torch. */
  picture(names: string[], numFrames: number, height: number) {
    return this.runtime.call('picture', { names, num_frames: numFrames, height }, picturesSchema);
  }
}
