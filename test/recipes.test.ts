/** The released recipes: they resolve, say what the paper says, and give models of the size that arithmetic gives. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { type Config, loadConfig } from '../src/config/load.ts';
import { PROJECT, PYTHON } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'recipes-'));
const env = { K400_ROOT: join(folder, 'k400'), SSV2_ROOT: join(folder, 'ssv2'), CLIP_WEIGHTS: folder };
for (const file of ['ViT-B-16.pt', 'ViT-L-14.pt', 'ViT-L-14-336px.pt']) writeFileSync(join(folder, file), '');
afterAll(() => rmSync(folder, { recursive: true }));

const B16 = { preset: 'ViT-B/16', width: 768, layers: 12, patch: 16, size: 224, heads: 12 };
const L14 = { preset: 'ViT-L/14', width: 1024, layers: 24, patch: 14, size: 224, heads: 16 };
const L336 = { ...L14, preset: 'ViT-L/14@336px', size: 336 };
const K400 = { classes: 400, decoder: 4, steps: 50_000, sampling: 'dense' };
const SSV2 = { classes: 174, decoder: 12, steps: 30_000, sampling: 'tsn', views: [3, 1] };

/** The original's README and released scripts; for Something-Something v2 its authors' word (published: third parties). */
const RECIPES = {
  'k400/vitb16_8x16': {
    ...B16,
    ...K400,
    frames: 8,
    stride: 16,
    split: 1,
    views: [1, 3],
    published: '82.8 %, top-5 95.8',
  },
  'k400/vitb16_16x16': {
    ...B16,
    ...K400,
    frames: 16,
    stride: 16,
    split: 1,
    views: [3, 1],
    published: '83.7 %, top-5 96.2',
  },
  'k400/vitb16_32x8': {
    ...B16,
    ...K400,
    frames: 32,
    stride: 8,
    split: 1,
    views: [3, 1],
    published: '84.3 %, top-5 96.6',
  },
  'k400/vitl14_8x16': {
    ...L14,
    ...K400,
    frames: 8,
    stride: 16,
    split: 1,
    views: [1, 3],
    published: '86.3 %, top-5 97.2',
  },
  'k400/vitl14_16x16': {
    ...L14,
    ...K400,
    frames: 16,
    stride: 16,
    split: 2,
    views: [3, 1],
    published: '86.9 %, top-5 97.4',
  },
  'k400/vitl14_32x8': {
    ...L14,
    ...K400,
    frames: 32,
    stride: 8,
    split: 4,
    views: [3, 1],
    published: '87.7 %, top-5 97.6',
  },
  'k400/vitl14_336_32x8': { ...L336, ...K400, frames: 32, stride: 8, views: [3, 1], published: '87.7 %, top-5 97.8' },
  'ssv2/vitb16_8': { ...B16, ...SSV2, frames: 8, published: 'top-1 61.0 %' },
  'ssv2/vitb16_16': { ...B16, ...SSV2, frames: 16, published: 'published  not published' },
  'ssv2/vitb16_32': { ...B16, ...SSV2, frames: 32, published: 'published  not published' },
  'ssv2/vitl14_8': { ...L14, ...SSV2, frames: 8, published: 'top-1 65.1 %' },
  'ssv2/vitl14_16': { ...L14, ...SSV2, frames: 16, published: 'published  not published' },
  'ssv2/vitl14_32': { ...L14, ...SSV2, frames: 32, published: 'top-1 66.7 %' },
};
type Recipe = (typeof B16 & typeof K400) & { frames: number; views: number[]; published: string };
const recipes: [string, Recipe & { stride?: number; split?: number }][] = Object.entries(RECIPES);

const resolve = (name: string, set: string[] = []) =>
  loadConfig(join(PROJECT, 'configs', `${name}.yaml`), { env, set });

/** As the original ran them. The device is said, so that a machine without a GPU can forecast. */
const EIGHT = ['launch.devices=8', 'launch.device=cuda'];

/** A configuration of the folder that needs more than the variables, with what a test gives instead. */
const INSTEAD: Record<string, string[]> = {
  demo: ['data.classes=null', 'data.num_classes=8'],
  'demo-labels': ['data.classes=null', 'data.num_classes=4'],
};

describe('configs', () => {
  const files = readdirSync(join(PROJECT, 'configs'), { recursive: true, encoding: 'utf8' });
  const names = files.filter((file) => file.endsWith('.yaml')).map((file) => file.slice(0, -'.yaml'.length));
  const notes = (name: string) => resolve(name, INSTEAD[name]).notes;

  test.each(names.filter((name) => !name.startsWith('sweeps/')))('%s resolves, and nothing in it is odd', (name) => {
    expect(notes(name)).toEqual([]);
  });

  test('every recipe is in the table above', () => {
    const found = names.filter((name) => /^(k400|ssv2)\//.test(name) && basename(name) !== 'base');
    expect(found.sort()).toEqual(recipes.map(([name]) => name).sort());
  });
});

describe.each(recipes)('%s', (name, recipe) => {
  const { config } = resolve(name);

  test('is the published recipe', () => {
    const { data, model, train } = config;
    expect(model.backbone).toMatchObject({ preset: recipe.preset, width: recipe.width, freeze: true });
    expect(model.decoder).toMatchObject({ num_layers: recipe.decoder, qkv_dim: recipe.width, num_heads: recipe.heads });
    expect([model.decoder.mlp_dropout, model.head.dropout, model.decoder.query_init]).toEqual([0.5, 0.5, 'zero']);
    expect(data).toMatchObject({ num_classes: recipe.classes, num_frames: recipe.frames, sampling: recipe.sampling });
    expect(data).toMatchObject({ size: recipe.size, mirror: false, augment: 'rand-m7-n4-mstd0.5-inc1' });
    expect(train).toMatchObject({
      steps: recipe.steps,
      batch_size: 256,
      lr: 4e-4,
      weight_decay: 0.05,
      warmup_steps: 0,
    });
    expect([config.eval.spatial_views, config.eval.temporal_views]).toEqual(recipe.views);
    expect([data.stride, train.micro_batches]).toEqual([
      recipe.stride ?? data.stride,
      recipe.split ?? train.micro_batches,
    ]);
  });

  test('reads data and weights from where the variables say', () => {
    const dataset = name.startsWith('k400') ? env.K400_ROOT : env.SSV2_ROOT;
    expect([config.data.train_list, config.data.val_list]).toEqual([`${dataset}/train.txt`, `${dataset}/val.txt`]);
    expect(config.model.backbone.weights).toMatch(new RegExp(`^${folder}/ViT-[BL]-1[46](-336px)?.pt$`));
    expect(config.model.backbone.weights_sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test('says its command and what was published', () => {
    const text = readFileSync(join(PROJECT, 'configs', `${name}.yaml`), 'utf8');
    expect(text).toContain(`# command    yarn train --config configs/${name}.yaml --set launch.devices=8\n`);
    expect(text).toContain(recipe.published);
    expect(text).toContain('Not run here');
  });
});

interface Description {
  parameters_total: number;
  parameters_trained: number;
  memory: { training_bytes: number; evaluation_bytes: number };
}

/** What Python says of the configurations, from models on the meta device, in one process. */
function describeModels(configs: Config[]): Description[] {
  const serve = 'import sys\nfrom coldframe.serve import handle\nfor line in sys.stdin: print(handle(line))';
  const input = configs.map((settings) => JSON.stringify({ verb: 'describe', settings })).join('\n');
  const options = { input, encoding: 'utf8', env: { ...process.env, CUDA_VISIBLE_DEVICES: '' } } as const;
  const replies = execFileSync(PYTHON, ['-c', serve], options).trimEnd().split('\n');
  return replies.map((line) => JSON.parse(line).result.model);
}

/** CLIP's vision transformer up to its last block (arXiv 2103.00020), with a bias in the patch embedding as upstream's. */
function countBackbone({ width: C, layers, patch, size }: Recipe): number {
  const patches = (size / patch) ** 2;
  const block = 4 * C * C + 4 * C + (8 * C * C + 5 * C) + 4 * C; // attention, mlp, two norms
  return 3 * patch ** 2 * C + C + C + (1 + patches) * C + 2 * C + layers * block;
}

/** Arxiv 2208.03550, section 3: decoder layers, each with its temporal modules, class query and classifier. */
function countDecoder({ width: C, patch, size, frames, decoder, classes }: Recipe): number {
  const offsets = (2 * (size / patch) - 1) ** 2;
  const layer = 4 * C * C + 4 * C + (8 * C * C + 5 * C) + 6 * C; // attention, mlp, three norms
  const temporal = 3 * C + C + frames * C + 2 * offsets * C; // convolution, positions, w1 and w2
  return decoder * (layer + temporal) + C + (2 * C + C * classes + classes);
}

describe('the models', () => {
  const described = describeModels(recipes.map(([name]) => resolve(name, EIGHT).config));
  const table = recipes.map(([name, recipe], i) => [name, recipe, described[i] as Description] as const);

  test.each(table)('%s has as many parameters as its settings make', (_, recipe, model) => {
    const trained = countDecoder(recipe);
    expect([model.parameters_trained, model.parameters_total]).toEqual([trained, trained + countBackbone(recipe)]);
  });

  test.each(table)('%s says the memory that is forecast for each of eight GPUs', (name, _, { memory }) => {
    const text = readFileSync(join(PROJECT, 'configs', `${name}.yaml`), 'utf8');
    const said = /# memory {5}forecast ([\d.]+) GiB to train, ([\d.]+) GiB to evaluate, on each of 8 GPUs/.exec(text);
    const found = [memory.training_bytes, memory.evaluation_bytes].map((bytes) => (bytes / 2 ** 30).toFixed(1));
    expect(said?.slice(1)).toEqual(found);
  });
});

describe('scripts', () => {
  const scripts = ['vitb16', 'vitl14'].flatMap((backbone) =>
    [8, 16, 32].map((frames) => {
      const decoder = backbone === 'vitb16' ? 'dec4x768' : 'dec4x1024';
      const config = `configs/k400/${backbone}_${frames}x${frames === 32 ? 8 : 16}.yaml`;
      return [`k400_${backbone}_${frames}f_${decoder}`, config] as const;
    }),
  );
  // A yarn that says what it was asked, and where.
  mkdirSync(join(folder, 'bin'));
  writeFileSync(join(folder, 'bin', 'yarn'), '#!/bin/sh\nprintf "%s|" "$PWD" "$@"\n');
  chmodSync(join(folder, 'bin', 'yarn'), 0o755);
  const run = (script: string, variables: NodeJS.ProcessEnv) =>
    execFileSync(join(PROJECT, 'scripts', script), ['--set', 'train.seed=1 2'], {
      cwd: folder,
      encoding: 'utf8',
      stdio: 'pipe',
      env: { ...variables, PATH: `${folder}/bin:${process.env.PATH}` },
    });
  const project = PROJECT.replace(/\/$/, '');

  test.each(scripts)(
    'train_%s.sh trains its recipe on eight devices, from any folder, and hands options on',
    (name, config) => {
      const set = ['--set', 'launch.devices=8', '--set', 'train.seed=1 2'];
      const asked = [project, '-s', 'train', '--config', config, ...set, ''];
      expect(run(`train_${name}.sh`, {})).toBe(asked.join('|'));
      expect(RECIPES).toHaveProperty([config.slice('configs/'.length, -'.yaml'.length)]);
    },
  );

  test.each(scripts)('eval_%s.sh evaluates CHECKPOINT, and asks for it', (name, config) => {
    const asked = [
      project,
      '-s',
      'evaluate',
      '--config',
      config,
      '--checkpoint',
      '/a b.pth',
      '--set',
      'train.seed=1 2',
      '',
    ];
    expect(run(`eval_${name}.sh`, { CHECKPOINT: '/a b.pth' })).toBe(asked.join('|'));
    expect(() => run(`eval_${name}.sh`, {})).toThrow('CHECKPOINT');
  });
});
