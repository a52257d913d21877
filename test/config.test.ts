import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { KEYS } from '../src/config/keys.ts';
import { type LoadOptions, loadConfig, PRESETS } from '../src/config/load.ts';
import { readStoredConfig } from '../src/config/migrate.ts';
import { UPSTREAM_FLAGS } from '../src/config/upstream-flags.ts';
import { problemsOf } from './support.ts';

const project = process.cwd();
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'config-')));

beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
  process.chdir(folder);
});
afterAll(() => {
  process.chdir(project);
  rmSync(folder, { recursive: true });
});

const TINY = 'model: {backbone: {preset: tiny}}\n';

function write(name: string, text: string): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), text);
}

function load(text: string, options: LoadOptions = {}) {
  write('my.yaml', text);
  return loadConfig('my.yaml', { env: {}, ...options }).config;
}

const fail = (text: string, options: LoadOptions = {}): string[] => problemsOf(() => load(text, options));

describe('defaults', () => {
  test('are the released K400 recipe for ViT-B/16', () => {
    const config = load('model: {backbone: {weights: random}}\n');
    expect(config.model.backbone).toMatchObject({ preset: 'ViT-B/16', ...PRESETS['ViT-B/16'], freeze: true });
    expect(config.model.decoder).toEqual({
      ...{ kind: 'evl', pool: 'class', frames: 'mean' },
      ...{ num_layers: 4, qkv_dim: 768, num_heads: 12, mlp_factor: 4, mlp_dropout: 0.5, query_init: 'zero' },
    });
    expect(config.data).toMatchObject({ num_classes: 400, num_frames: 8, stride: 16, size: 224, mirror: false });
    expect(config.data.mean).toEqual([0.48145466, 0.4578275, 0.40821073]);
    expect(config.train).toMatchObject({ steps: 50_000, batch_size: 256, lr: 4e-4, weight_decay: 0.05 });
  });

  test('follow the preset', () => {
    const { data, model } = load('model: {backbone: {preset: ViT-L/14@336px, weights: random}}\n');
    expect([data.size, model.backbone.input_size, model.decoder.qkv_dim, model.decoder.num_heads]).toEqual([
      336, 336, 1024, 16,
    ]);
  });

  test('an empty file and empty sections say nothing', () => {
    expect(fail('')).toHaveLength(1); // the weights
    expect(load(`${TINY}train:\ndata: {}\n`)).toEqual(load(TINY));
  });

  test('a resolved configuration is complete and loads again unchanged, as JSON and as YAML', () => {
    write('names.txt', 'a\nb\nc\n');
    const config = load(`${TINY}data: {classes: names.txt, root: clips, mean: 0.45, std: 0.225}\n`);
    const text = JSON.stringify(config);
    expect(readStoredConfig(JSON.parse(text), { file: 'config.json' })).toEqual(config);
    expect(load(text)).toEqual(config);
    const leaves = [...KEYS.keys()].map((key) =>
      key.split('.').reduce((at: unknown, part) => (at as Record<string, unknown>)[part], config),
    );
    expect(leaves).not.toContain(undefined);
  });

  test('one number stands for three channels, a root for both lists', () => {
    const { data } = load(`${TINY}data: {mean: 0.45, std: [0.1, 0.2, 0.3], root: clips, val_root: other}\n`);
    expect([data.mean, data.std]).toEqual([
      [0.45, 0.45, 0.45],
      [0.1, 0.2, 0.3],
    ]);
    expect([data.train_root, data.val_root]).toEqual([join(folder, 'clips'), join(folder, 'other')]);
    expect(load(`${TINY}data: {root: clips, train_root: other}\n`).data.val_root).toBe(join(folder, 'clips'));
  });

  test("what follows from other keys: the seed of the data, the decoder's heads", () => {
    expect(load(`${TINY}train: {seed: 7}\n`).data.seed).toBe(7);
    expect(load(`${TINY}train: {seed: 7}\ndata: {seed: 3}\n`).data.seed).toBe(3);
    const sizes = 'width: 96, num_heads: 3, num_layers: 2, patch_size: 16';
    const { model } = load(`model: {backbone: {preset: custom, ${sizes}}, decoder: {num_layers: 1}}\n`);
    expect(model.decoder.num_heads).toBe(1); // of 64 channels, and no part of one
  });
});

describe('extends', () => {
  test('merges deeply, later files win, and paths are relative to the file that names them', () => {
    write('recipes/base.yaml', `${TINY}data: {train_list: t.txt, num_frames: 4}\ntrain: {steps: 7, lr: 1e-3}\n`);
    write('recipes/more/long.yaml', 'train: {steps: 9}\ndata: {val_list: ../v.txt}\n');
    const { data, train } = load('extends: [recipes/base.yaml, recipes/more/long.yaml]\ndata: {num_frames: 5}\n');
    expect([data.train_list, data.val_list]).toEqual([join(folder, 'recipes/t.txt'), join(folder, 'recipes/v.txt')]);
    expect([data.num_frames, train.steps, train.lr]).toEqual([5, 9, 1e-3]);
  });

  test('an error is placed in the file that holds the value', () => {
    write('recipes/base.yaml', `${TINY}train:\n  batch_size: 100\n`);
    expect(fail('extends: recipes/base.yaml\ntrain:\n  micro_batches: 3\n')).toEqual([
      'my.yaml:3:18  train.micro_batches: 3 does not divide train.batch_size 100 (recipes/base.yaml:3:15). Give a divisor of it.',
    ]);
  });

  test('a loop, a missing file and a wrong type are errors with their place', () => {
    write('a.yaml', 'extends: b.yaml\n');
    write('b.yaml', 'extends: a.yaml\n');
    expect(fail(`${TINY}extends: [a.yaml, none.yaml, 3]\n`)).toEqual([
      'b.yaml:1:10  extends: the file extends itself: a.yaml -> b.yaml -> a.yaml. Remove one of these.',
      `my.yaml:2:10  extends: no file at ${folder}/none.yaml. Give the path of a YAML file.`,
      'my.yaml:2:10  extends: found 3. Allowed: a file or a list of files.',
    ]);
  });

  test('a file may be the base of two others', () => {
    write('base.yaml', TINY);
    write('a.yaml', 'extends: base.yaml\ntrain: {steps: 3}\n');
    write('b.yaml', 'extends: base.yaml\ntrain: {seed: 4}\n');
    expect(load('extends: [a.yaml, b.yaml]\n').train).toMatchObject({ steps: 3, seed: 4 });
  });
});

describe('environment', () => {
  const env = { ROOT: '/clips', STEPS: '12', EMPTY: '' };

  test('fills strings, and an unquoted variable may be a number, a truth value or null', () => {
    const config = load(
      `${TINY}data: \n  root: \${ROOT}/k400\n  augment: \${EMPTY:-null}\n  mirror: \${NONE:-true}\ntrain:\n  steps: \${STEPS}\nrun:\n  wandb: "\${STEPS}"\n`,
      { env },
    );
    expect(config.data).toMatchObject({ root: '/clips/k400', augment: null, mirror: true });
    expect([config.train.steps, config.run.wandb]).toEqual([12, '12']);
  });

  test('a variable that is set to nothing is replaced too, as in a shell', () => {
    expect(load(`${TINY}train:\n  seed: \${EMPTY:-7}\n`, { env }).train.seed).toBe(7);
  });

  test('$${ stands for ${', () => {
    expect(load(`${TINY}run: {wandb: "$\${STEPS}"}\n`, { env }).run.wandb).toBe(`\${STEPS}`);
  });

  test('an unset variable is an error where it stands, unless another file replaces the value', () => {
    write('base.yaml', `${TINY}data:\n  root: \${NONE}/x\n`);
    expect(fail('extends: base.yaml\n')).toEqual([
      `base.yaml:3:9  \${NONE} is not set. Set the variable, or write \${NONE:-default}.`,
    ]);
    expect(load('extends: base.yaml\ndata: {root: x}\n').data.root).toBe(join(folder, 'x'));
  });

  test('an unfinished ${ is an error', () => {
    expect(fail(`${TINY}run: {wandb: "a \${B"}\n`)).toEqual([
      expect.stringMatching(/^my.yaml:2:14 {2}`\$\{` names no variable/),
    ]);
  });

  test('~/ is the home folder', () => {
    expect(load(`${TINY}data: {root: ~/clips}\n`).data.root).toBe(join(homedir(), 'clips'));
  });
});

describe('--set', () => {
  test('wins over the file, reads YAML values and flow, and takes paths from the current folder', () => {
    write('deep/my.yaml', `${TINY}train: {steps: 3}\n`);
    const set = [
      'train.steps=5',
      'train.lr=1e-4',
      'data.root=x',
      'eval.every=',
      'data.mean=[0, 0.5, 1]',
      'model.head={dropout: 0}',
    ];
    const { config } = loadConfig('deep/my.yaml', { set, env: {} });
    expect(config.train).toMatchObject({ steps: 5, lr: 1e-4 });
    expect(config.data).toMatchObject({ root: join(folder, 'x'), mean: [0, 0.5, 1] });
    expect([config.eval.every, config.model.head.dropout]).toEqual([null, 0]);
  });

  test.each([
    ['modl.x=1', '--set modl.x=1: unknown key. Did you mean model? It has backbone, decoder, temporal, head.'],
    ['train.stepz=1', '--set train.stepz=1: unknown key. Did you mean train.steps?'],
    ['train.lr', '--set train.lr: found no value. Write --set key=value, for example --set train.lr=1e-4.'],
    ['=3', '--set =3: found no value. Write --set key=value, for example --set train.lr=1e-4.'],
    ['train.lr=fast', '--set train.lr=fast: found "fast". Allowed: a number above 0.'],
    ['train=3', '--set train=3: found 3. This is a section: steps, batch_size'],
    [
      'data.size=65',
      '--set data.size=65: 65 is not a multiple of model.backbone.patch_size 8 (preset tiny). The nearest is 64.',
    ],
    ['data.root=[a', '--set data.root=[a  not valid YAML: '],
    ['__proto__.lr=3', '--set __proto__.lr=3: unknown key. Did you mean train.lr?'],
    ['extends=a.yaml', '--set extends=a.yaml: unknown key.'],
  ])('%s is an error', (option, problem) => {
    expect(fail(TINY, { set: [option] })).toEqual([expect.stringContaining(problem)]);
  });
});

describe('unknown keys', () => {
  test.each([
    [
      'model:\n  decoder:\n    layers: 3\n',
      'my.yaml:3:5  model.decoder.layers: unknown key. Did you mean model.decoder.num_layers?',
    ],
    ['decoder:\n  num_heads: 3\n  qkv_dim: 3\n', 'my.yaml:1:1  decoder: unknown key. Did you mean model.decoder?'],
    ['head:\n', 'my.yaml:1:1  head: unknown key. Did you mean model.head?'],
    ['data:\n  sampling_rate: 3\n', 'my.yaml:2:3  data.sampling_rate: unknown key. Did you mean data.stride?'],
    ['batch_split: 3\n', 'my.yaml:1:1  batch_split: unknown key. Did you mean train.micro_batches?'],
    ['lr: 3\n', 'my.yaml:1:1  lr: unknown key. Did you mean train.lr?'],
    ['tsn_sampling: true\n', 'my.yaml:1:1  tsn_sampling: unknown key. Did you mean `data.sampling: tsn`?'],
    ['eval_only: true\n', "my.yaml:1:1  eval_only: unknown key. Upstream's --eval_only is here: coldframe evaluate"],
    ['train:\n  foo: 1\n', 'my.yaml:2:3  train.foo: unknown key. Allowed in train: steps, batch_size'],
    ['train.lr: 3\n', 'my.yaml:1:1  train.lr: a key holds no dots in a file. Write nested sections.'],
    ['train:\n  lr: {a: 3}\n', 'my.yaml:2:3  train.lr: found a section. Allowed: a number above 0.'],
    ['train: [3]\n', 'my.yaml:1:8  train: found [3]. This is a section: steps, batch_size'],
  ])('%j', (text, problem) => {
    expect(fail(text, { set: ['model.backbone.preset=tiny'] })).toEqual([expect.stringContaining(problem)]);
  });

  test("every one of upstream's flags names a key that exists, or says what to do", () => {
    expect(Object.keys(UPSTREAM_FLAGS)).toHaveLength(46);
    for (const { key, how } of Object.values(UPSTREAM_FLAGS)) {
      if (key !== null) expect([...KEYS.keys()]).toContain(key);
      expect(how).not.toBe('');
    }
  });
});

describe('YAML', () => {
  test.each([
    ['train:\n  lr: 1\n  lr: 2\n', 'my.yaml:3:3  this key was given before. Keep one of them.'],
    ['train:\n\tlr: 1\n', 'my.yaml:2:1  tabs are not allowed as indentation. Use spaces.'],
    ['train: {lr: 1\n', 'my.yaml:2:1  not valid YAML: '],
    ['- a\n- b\n', 'my.yaml:1:1  found no keys. A configuration is made of sections, for example `train:`.'],
    ['train: {lr: !!foo 3}\n', 'my.yaml:1:13  not valid YAML: Unresolved tag'],
    ['a: &a {b: *a}\n', 'nested too deeply'],
  ])('%j is an error with its place', (text, problem) => {
    expect(fail(text, { set: ['model.backbone.preset=tiny'] })).toContainEqual(expect.stringContaining(problem));
  });

  test('BOM, CRLF and aliases are read', () => {
    expect(
      load('\uFEFFtrain: {seed: &s 3}\r\nmodel:\r\n  backbone: {preset: tiny, random_seed: *s}\r\n'),
    ).toMatchObject({
      ...{ train: { seed: 3 }, model: { backbone: { random_seed: 3 } } },
    });
  });

  test('a file that is missing or a folder is named', () => {
    expect(problemsOf(() => loadConfig('none.yaml'))[0]).toBe('none.yaml  no such file. Give the path of a YAML file.');
    expect(problemsOf(() => loadConfig('.'))[0]).toContain('is a folder. Give the path of a YAML file.');
  });
});

describe('values', () => {
  test.each([
    ['train: {lr: "1e-3"}', '1:13  train.lr: found "1e-3". Allowed: a number above 0.'],
    ['train: {lr: .inf}', '1:13  train.lr: found Infinity. Allowed: a number above 0.'],
    ['train: {lr: .nan}', '1:13  train.lr: found NaN. Allowed: a number above 0.'],
    ['train: {steps: 1.5}', '1:16  train.steps: found 1.5. Allowed: a whole number from 1.'],
    ['train: {steps:}', '1:9  train.steps: found null. Allowed: a whole number from 1.'],
    ['train: {label_smoothing: 1}', '1:26  train.label_smoothing: found 1. Allowed: a number from 0 below 1.'],
    ['data: {mirror: yes}', '1:16  data.mirror: found "yes". Allowed: true or false.'],
    ['data: {sampling: sparse}', '1:18  data.sampling: found "sparse". Allowed: dense, tsn.'],
    ['data: {mean: [1, 2]}', '1:14  data.mean: found [1,2]. Allowed: a number or a list of 3 numbers.'],
    ['data: {std: [0, 1, 1]}', '1:13  data.std: found [0,1,1]. Allowed: a number above 0 or a list of 3 numbers'],
    ['data: {max_bad_fraction: 2}', '1:26  data.max_bad_fraction: found 2. Allowed: a number from 0 to 1.'],
    ['data: {root: ""}', '1:14  data.root: found "". Allowed: text or null.'],
    ['eval: {spatial_views: 2}', '1:23  eval.spatial_views: found 2. Allowed: 1 or 3.'],
    ['eval: {every: 0}', '1:15  eval.every: found 0. Allowed: a whole number from 1 or null.'],
    ['launch: {devices: all}', '1:19  launch.devices: found "all". Allowed: a whole number from 1 or auto.'],
    ['launch: {rendezvous: login}', '1:22  launch.rendezvous: found "login". Allowed: text of the form'],
    ['launch: {rendezvous: "a:0", nodes: 2}', '1:22  launch.rendezvous: found "a:0". Allowed: a port from 1 to 65535.'],
  ])('%s is an error', (text, problem) => {
    expect(fail(`${text}\n`, { set: ['model.backbone.preset=tiny'] })).toEqual(
      [`my.yaml:${problem}`].map(expect.stringContaining),
    );
  });

  test('all problems are reported at once, and none that follows from another', () => {
    const text =
      'trian: {lr: 1}\ndata: {mirror: 3}\ntrain: {batch_size: 0, micro_batches: 3, warmup_steps: 9, steps: 9}\n';
    expect(fail(text, { set: ['model.backbone.preset=huge'] })).toEqual([
      'my.yaml:1:1  trian: unknown key. Did you mean train?',
      'my.yaml:2:16  data.mirror: found 3. Allowed: true or false.',
      '--set model.backbone.preset=huge: found "huge". Allowed: ViT-B/16, ViT-L/14, ViT-L/14@336px, tiny, custom.',
      'my.yaml:3:21  train.batch_size: found 0. Allowed: a whole number from 1.',
      'my.yaml:3:56  train.warmup_steps: 9 leaves nothing of train.steps 9 (my.yaml:3:66). Give fewer.',
    ]);
  });
});

describe('values that must fit each other', () => {
  const custom = 'preset: custom, width: 6, num_layers: 2, num_heads: 3, patch_size: 4';

  test.each([
    ['{}', 'model.backbone.weights: not set, and ViT-B/16 needs it.'],
    ['{weights: none.pt}', 'my.yaml:1:29  model.backbone.weights: no file at '],
    [`{preset: tiny, weights_sha256: ${'a'.repeat(64)}}`, 'model.backbone.weights_sha256: random weights have none.'],
    [
      '{preset: tiny, width: 64}',
      'my.yaml:1:41  model.backbone.width: found 64, but model.backbone.preset "tiny" (my.yaml:1:28) has 128.',
    ],
    [
      '{preset: tiny, input_size: 32}}\ndata: {size: 64',
      'model.backbone.input_size: found 32, not data.size 64 (my.yaml:2:14).',
    ],
    [
      '{preset: custom, width: 8, num_layers: 4, num_heads: 2}',
      'model.backbone.patch_size: not set, and preset: custom has',
    ],
    [
      `{${custom}}, decoder: {qkv_dim: 6, num_heads: 4, num_layers: 1}`,
      'model.decoder.num_heads: 4 does not divide model.decoder.qkv_dim 6',
    ],
    [`{${custom}}, decoder: {num_layers: 3}`, 'model.decoder.num_layers: 3 is more than model.backbone.num_layers 2'],
    [
      `{${custom.replace('heads: 3', 'heads: 4')}}, decoder: {num_layers: 1}`,
      '4 does not divide model.backbone.width 6',
    ],
  ])('%s', (backbone, problem) => {
    expect(fail(`model: {backbone: ${backbone}}\n`)).toEqual([expect.stringContaining(problem)]);
  });

  test('custom sizes resolve, and a given input size is the size of the data', () => {
    const { data, model } = load(`model: {backbone: {${custom}, input_size: 20}, decoder: {num_layers: 2}}\n`);
    expect(model.backbone).toMatchObject({ width: 6, input_size: 20, mlp_factor: 4, weights: 'random' });
    expect([data.size, model.decoder.qkv_dim, model.decoder.num_heads]).toEqual([20, 6, 1]);
  });

  test('a weights file that exists is taken', () => {
    write('clip.pt', 'x');
    expect(load('model: {backbone: {weights: clip.pt}}\n').model.backbone.weights).toBe(join(folder, 'clip.pt'));
  });

  test('classes give the number of classes, and a different number is an error that shows both', () => {
    write('names.txt', 'push left\npush right\nfall\n');
    expect(load(`${TINY}data: {classes: names.txt}\n`).data.num_classes).toBe(3);
    expect(fail(`${TINY}data:\n  classes: names.txt\n  num_classes: 4\n`)).toEqual([
      'my.yaml:4:16  data.num_classes: found 4, but data.classes (my.yaml:3:12) has 3 names. Remove it, or correct one.',
    ]);
    expect(fail(`${TINY}data: {classes: none.txt}\n`)).toHaveLength(2);
  });

  test('what is allowed but odd becomes a note', () => {
    write('names.txt', 'push left\npush right\nfall\n');
    write('my.yaml', `${TINY}data: {classes: names.txt, mirror: true, sampling: tsn, stride: 3}\n`);
    expect(loadConfig('my.yaml', { env: {} }).notes).toEqual([
      'my.yaml:2:36  data.mirror: flips clips left to right, but 2 classes name a side ("push left").',
      'my.yaml:2:65  data.stride: has no effect under data.sampling: tsn.',
    ]);
  });

  test('a command names the keys it needs; dummy data need no lists', () => {
    const required = ['data.train_list'];
    expect(fail(TINY, { required })).toEqual([
      'my.yaml  data.train_list: not set. This command needs it. Give a list of `<path> <label>` lines.',
    ]);
    expect(fail(`${TINY}data: {dummy: true}\n`, { required })).toEqual([]);
  });
});
