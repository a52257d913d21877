/** Writes run folders as a training leaves them, with scores of random numbers, for the tests of what reports them. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FIXTURES, PYTHON } from './support.ts';

export interface Made {
  classes?: string[];
  /** Videos of each class. */
  each?: number;
  /** Classes that are taken for each other. */
  pairs?: [number, number][];
  /** Labels that are exchanged for another. */
  errors?: number;
  /** Names of videos, in turn; %d is their place. */
  names?: string[];
  steps?: number[];
  bad?: number;
  /** Several labels a video. */
  is_multi?: boolean;
}

export interface Planted {
  /** Video, its label in the list, the class that it is. */
  wrong: [string, number, number][];
  top1: number;
}

export const CLASSES = ['left', 'right', 'up', 'down <up>', 'shrink', '</script>', 'counterclockwise', 'clockwise'];
const SHA = { train: '1f'.repeat(32), val: '2e'.repeat(32) };
const at = (seconds: number): string => new Date(Date.parse('2026-11-22T10:00:00Z') + 1000 * seconds).toISOString();

/** Returns what was planted in the last evaluation. */
export function writeRun(dir: string, made: Made = {}): Planted {
  const { classes = CLASSES, each = 25, pairs = [[0, 6]], errors = 5, names = ['/clips/%d.mp4'], bad = 0 } = made;
  const { steps = [150, 300], is_multi = false } = made;
  mkdirSync(dir, { recursive: true });
  const lists = Object.fromEntries(
    (['train', 'val'] as const).map((which) => [
      which,
      { file: `/lists/${which}.txt`, sha256: SHA[which], num_lines: 9 },
    ]),
  );
  const last = steps.at(-1) ?? 0;
  const config = {
    data: {
      labels: is_multi ? 'multi' : 'single',
      train_list: '/lists/train.txt',
      val_list: '/lists/val.txt',
      num_classes: classes.length,
    },
    model: { backbone: { preset: 'tiny' } },
    train: { steps: last, batch_size: 16, lr: 2e-3, seed: 3 },
  };
  const about = {
    ...{ device: 'cpu', precision: 'fp32', python: '3.11.7', platform: 'Linux', num_threads: 2, cpu: 'AVX2' },
    ...{ node: 'v20.20.2', git_commit: 'c0ffee', backbone_sha256: '3d'.repeat(32), memory_bytes: 2 ** 34 },
    ...{ packages: { torch: '2.13.0', av: '18.1.0', numpy: '2.4.6' }, parameters: { total: 900, trained: 500 }, lists },
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  writeFileSync(join(dir, 'environment.json'), JSON.stringify(about));
  writeFileSync(join(dir, 'bad-videos.tsv'), '/clips/bad <b>.mp4\tcannot be decoded: moov atom not found\ttrain\n');
  let planted: Planted = { wrong: [], top1: 0 };
  const lines: object[] = [{ time: at(0), kind: 'started', step: 0, trials: ['main'] }];
  for (let step = 10; step <= last; step += 10) {
    const told = { loss: 2 * Math.exp((-3 * step) / last), lr: 2e-3 * (1 - step / last), clips_per_second: 30 };
    lines.push({ time: at(step), kind: 'step', step, trial: 'main', ...told, data_seconds: 0.1, step_seconds: 0.4 });
  }
  for (const step of steps) {
    planted = plant(join(dir, 'evaluations', `step-${step}`), {
      ...{ step, classes, each, pairs, errors, names, list: lists.val, bad, is_multi },
    });
    const shares = is_multi ? { map: 0.75 } : { top1: planted.top1, top5: 1 };
    lines.push({ time: at(step), kind: 'evaluated', step, trial: 'main', ...shares });
  }
  lines.push({ time: at(200), kind: 'restarted', step: 200, why: 'process 4711 was killed by SIGKILL\nmore' });
  writeFileSync(join(dir, 'events.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  return planted;
}

/** Writes an evaluation by itself (fixtures/planted.py). */
export function plant(folder: string, about: object): Planted {
  return JSON.parse(
    execFileSync(PYTHON, [join(FIXTURES, 'planted.py'), folder, JSON.stringify(about)], { encoding: 'utf8' }),
  );
}
