/** Command lines of the original become configurations with the original's meaning. */
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { KEYS } from '../src/config/keys.ts';
import { type Config, loadConfig } from '../src/config/load.ts';
import { PATH_KEYS } from '../src/config/schema.ts';
import { UPSTREAM_FLAGS } from '../src/config/upstream-flags.ts';
import { importCommand, runImport } from '../src/tools/import-command.ts';
import { findCommand } from '../src/tools/shell-words.ts';
import { coldframe, PROJECT, problemsOf } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'import-')));
const weights = join(folder, 'clip.pt');
for (const file of ['clip.pt', 'ViT-B-16.pt', 'ViT-L-14.pt']) writeFileSync(join(folder, file), '');
afterAll(() => rmSync(folder, { recursive: true }));

/** What the original cannot run without. */
const NEEDED = ['--num_steps', '70', '--batch_size', '32', '--backbone_path', weights];
const LISTS = ['--train_list_path', '/k/train.txt', '--val_list_path', '/k/val.txt'];

function load(words: string[]): Config {
  const output = join(folder, 'imported.yaml');
  writeFileSync(output, importCommand(words, output));
  return loadConfig(output, { env: {} }).config;
}

const loadFlags = (...flags: string[]): Config => load(['main.py', ...NEEDED, ...LISTS, ...flags]);

const at = (config: Config, key: string): unknown =>
  key.split('.').reduce((value: unknown, part) => (value as Record<string, unknown>)[part], config);

const withoutFiles = (config: Config): Record<string, unknown> =>
  Object.fromEntries(
    [...KEYS.keys()]
      .filter((key) => !PATH_KEYS.has(key) && key !== 'model.backbone.weights_sha256')
      .map((key) => [key, at(config, key)]),
  );

describe('the twelve released scripts', () => {
  const MEAN = ['0.48145466', '0.4578275', '0.40821073'];
  const STD = ['0.26862954', '0.26130258', '0.27577711'];

  function writeScript(backbone: 'B/16' | 'L/14', frames: number, stride: number, split: number, views: string[]) {
    const [width, heads] = backbone === 'B/16' ? ['768', '12'] : ['1024', '16'];
    return [
      ...['--num_steps', '50000', '--backbone', `ViT-${backbone}-lnpre`, '--backbone_type', 'clip'],
      ...['--backbone_path', `${folder}/ViT-${backbone.replace('/', '-')}.pt`, '--decoder_num_layers', '4'],
      ...['--decoder_qkv_dim', width, '--decoder_num_heads', heads, '--num_classes', '400', '--batch_size', '256'],
      ...['--val_list_path', '/k400/val.txt', '--batch_split', `${split}`, '--auto_augment', 'rand-m7-n4-mstd0.5-inc1'],
      ...['--mean', ...MEAN, '--std', ...STD, '--num_workers', '12', '--num_frames', `${frames}`],
      ...['--sampling_rate', `${stride}`, '--num_spatial_views', views[0], '--num_temporal_views', views[1]],
    ].map(String);
  }

  const SCRIPTS = [
    ['vitb16_8x16', 'B/16', 8, 16, 1, ['1', '3']],
    ['vitb16_16x16', 'B/16', 16, 16, 1, ['3', '1']],
    ['vitb16_32x8', 'B/16', 32, 8, 1, ['3', '1']],
    ['vitl14_8x16', 'L/14', 8, 16, 1, ['1', '3']],
    ['vitl14_16x16', 'L/14', 16, 16, 2, ['3', '1']],
    ['vitl14_32x8', 'L/14', 32, 8, 4, ['3', '1']],
  ] as const;
  const launch = (processes: string) => [
    ...['python', '-u', '-m', 'torch.distributed.run', '--nproc_per_node', processes, 'main.py'],
  ];
  const recipe = (name: string) =>
    loadConfig(join(PROJECT, 'configs', 'k400', `${name}.yaml`), { env: { CLIP_WEIGHTS: folder } }).config;

  test.each(SCRIPTS)('%s trains as its recipe', (name, backbone, frames, stride, split, views) => {
    const flags = writeScript(backbone, frames, stride, split, [...views]);
    const training = ['--checkpoint_dir', 'runs/x', '--auto_resume', '--train_list_path', '/k400/train.txt'];
    const config = load([...launch('8'), ...flags, ...training]);
    expect(withoutFiles(config)).toEqual({ ...withoutFiles(recipe(name)), 'launch.devices': 8 });
    expect(config.model.backbone.weights).toBe(recipe(name).model.backbone.weights);
    expect([config.data.train_list, config.data.val_list]).toEqual(['/k400/train.txt', '/k400/val.txt']);
  });

  test.each(SCRIPTS)('%s evaluates as its recipe', (name, backbone, frames, stride, _, views) => {
    const words = [...launch('4'), ...writeScript(backbone, frames, stride, 1, [...views])];
    const config = load([...words, '--resume_path', '/released/x.pth', '--eval_only']);
    const expected = withoutFiles(recipe(name));
    expect(withoutFiles(config)).toEqual({ ...expected, 'train.micro_batches': 1 });
  });
});

describe('flags', () => {
  /** Flag -> its words, and the value of the key; none is the default of either side. */
  const CASES: Record<string, [string[], unknown]> = {
    num_steps: [['123'], 123],
    save_freq: [['11'], 11],
    eval_freq: [['12'], 12],
    print_freq: [['13'], 13],
    backbone: [['ViT-L/14-lnpre'], 'ViT-L/14'],
    backbone_path: [[join(folder, 'ViT-B-16.pt')], join(folder, 'ViT-B-16.pt')],
    finetune_backbone: [[], false],
    decoder_num_layers: [['3'], 3],
    decoder_qkv_dim: [['384'], 384],
    decoder_num_heads: [['6'], 6],
    decoder_mlp_factor: [['2.5'], 2.5],
    decoder_mlp_dropout: [['.25'], 0.25],
    num_classes: [['51'], 51],
    cls_dropout: [['0'], 0],
    no_temporal_conv: [[], false],
    no_temporal_pos_embed: [[], false],
    no_temporal_cross_attention: [[], false],
    lr: [['1e-3'], 1e-3],
    weight_decay: [['0.2'], 0.2],
    disable_fp16: [[], 'fp32'],
    batch_split: [['4'], 4],
    pretrain: [['/a/b.pth'], '/a/b.pth'],
    train_list_path: [['/a/t.txt'], '/a/t.txt'],
    val_list_path: [['/a/v.txt'], '/a/v.txt'],
    train_data_root: [['/a/t'], '/a/t'],
    val_data_root: [['/a/v'], '/a/v'],
    data_root: [['/a'], '/a'],
    batch_size: [['64'], 64],
    num_spatial_views: [['3'], 3],
    num_temporal_views: [['2'], 2],
    num_frames: [['16'], 16],
    sampling_rate: [['4'], 4],
    tsn_sampling: [[], 'tsn'],
    spatial_size: [['112'], 112],
    mean: [
      ['0.5', '.4', '0.3'],
      [0.5, 0.4, 0.3],
    ],
    std: [['0.2'], [0.2, 0.2, 0.2]],
    num_workers: [['3'], 3],
    dummy_dataset: [[], true],
    auto_augment: [['rand-m9-n2'], 'rand-m9-n2'],
    interpolation: [['bilinear'], 'bilinear'],
    no_mirror: [[], false],
  };
  const withKey = Object.entries(UPSTREAM_FLAGS).filter(([, { key }]) => key !== null);

  test('of the original are 46, and each that has a key is a case here', () => {
    expect(Object.keys(UPSTREAM_FLAGS)).toHaveLength(46);
    expect(Object.keys(CASES).sort()).toEqual(withKey.map(([name]) => name).sort());
  });

  test.each(Object.entries(CASES))('--%s sets its key and no other', (name, [words, value]) => {
    const plain = withoutFiles(loadFlags());
    const config = loadFlags(`--${name}`, ...words);
    const key = UPSTREAM_FLAGS[name]?.key ?? '';
    expect(at(config, key)).toEqual(value);
    const changed = Object.entries(withoutFiles(config)).filter(([other, found]) => !same(found, plain[other]));
    const follows = name === 'backbone' ? /^model\.backbone\./ : name === 'spatial_size' ? /input_size$/ : /^$/;
    expect(changed.map(([other]) => other).filter((other) => other !== key && !follows.test(other))).toEqual([]);
    if (name !== 'no_mirror' && !PATH_KEYS.has(key)) expect(value).not.toEqual(plain[key]);
  });

  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

  test('that were not given have the value the original gives them', () => {
    expect(withoutFiles(loadFlags())).toMatchObject({
      ...{ 'data.mean': [0.45, 0.45, 0.45], 'data.std': [0.225, 0.225, 0.225], 'data.augment': null },
      ...{ 'data.num_workers': 10, 'data.num_classes': 400, 'data.num_frames': 8, 'data.stride': 16, 'data.size': 224 },
      ...{ 'data.sampling': 'dense', 'data.mirror': false, 'data.interpolation': 'bicubic', 'data.dummy': false },
      ...{ 'model.backbone.preset': 'ViT-B/16', 'model.backbone.freeze': true, 'model.decoder.num_layers': 4 },
      ...{ 'model.decoder.mlp_factor': 4, 'model.decoder.mlp_dropout': 0.5, 'model.head.dropout': 0.5 },
      ...{ 'train.lr': 4e-4, 'train.weight_decay': 0.05, 'train.micro_batches': 1, 'train.precision': 'auto' },
      ...{ 'eval.spatial_views': 1, 'eval.temporal_views': 3, 'eval.every': 5000, 'run.save_every': 5000 },
      ...{ 'run.print_every': 10, 'model.temporal.conv': true },
    });
  });

  test('that were not given have it too where ours follows the backbone', () => {
    const { decoder } = loadFlags('--backbone', 'ViT-L/14-lnpre').model;
    expect([decoder.qkv_dim, decoder.num_heads]).toEqual([768, 12]);
  });

  test('are read as argparse reads them: last one wins, =, unique beginnings', () => {
    const config = loadFlags('--num_frames', '4', '--num_frames=16', '--spatial', '112', '--data_root=');
    expect([config.data.num_frames, config.data.size, config.data.root]).toEqual([16, 112, process.cwd()]);
  });

  test('that are wrong are all told at once, with the nearest that there is', () => {
    const words = ['--num-frames', '8', '--decoder_heads', '2', '--num', '1', '--lr', 'much', '--std', '1', '2'];
    const more = ['--no_mirror', 'yes', '--num_steps', '--backbone', 'ViT-B/16', '--backbone_type', 'mae'];
    expect(problemsOf(() => importCommand(['main.py', 'stray', ...words, ...more]))).toEqual([
      'stray  belongs to no flag. Remove it.',
      '--num-frames  unknown flag. Did you mean --num_frames?',
      '--decoder_heads  unknown flag. Did you mean --decoder_num_heads?',
      expect.stringMatching(/^--num {2}unknown flag. It may stand for --num_steps, .*: write it out.$/),
      '--no_mirror  found "yes". Allowed: no value.',
      '--num_steps  found nothing. Allowed: one value.',
      '--lr  found "much". Allowed: a number above 0.',
      '--std  found "1 2". Allowed: a number above 0 or a list of 3 numbers.',
      '--backbone  found "ViT-B/16". Allowed: ViT-B/16-lnpre, ViT-L/14-lnpre.',
      '--backbone_type  found "mae". Allowed: clip.',
      'See `coldframe flags` for all of them.',
    ]);
    expect(problemsOf(() => importCommand(['python', 'train.py']))).toHaveLength(1);
  });
});

describe('what has no key', () => {
  const header = (...words: string[]) =>
    importCommand(words, join(folder, 'a.yaml'))
      .split('\n')
      .filter((line) => line.startsWith('#'));

  test('the schema comes first, then our command for training', () => {
    const launcher = ['torchrun', '--nproc_per_node=8', 'src/main.py'];
    const flags = ['--batch_split', '2', '--checkpoint_dir', 'runs/a b', '--auto_resume', '--backbone_type', 'clip'];
    expect(header(...launcher, ...NEEDED, ...LISTS, ...flags, '--no_mirror')).toEqual([
      expect.stringMatching(/^# yaml-language-server: \$schema=\S+\/configs\/coldframe\.schema\.json$/),
      expect.stringContaining('Made by `coldframe import-command`'),
      `# Run: yarn train --config ${folder}/a.yaml --run-dir 'runs/a b'`,
      expect.stringMatching(
        /^# On one device `--set launch\.devices=1 --set train\.micro_batches=16` .* each of 8 does\.$/,
      ),
      '# --backbone_type clip: nothing: the format of the weights file is recognised.',
    ]);
  });

  test('what the launcher says of devices and nodes becomes keys, and what it cannot say here is told', () => {
    const launch = (...launcher: string[]) => {
      const { launch: keys } = load(['torchrun', ...launcher, 'main.py', ...NEEDED, ...LISTS]);
      return [keys.devices, keys.nodes, keys.rendezvous];
    };
    const command = (...launcher: string[]) => ['torchrun', ...launcher, 'main.py', ...NEEDED, ...LISTS];
    expect(launch('--nproc-per-node', '4')).toEqual([4, 1, null]);
    expect(launch('--nproc_per_node=1', '--rdzv_endpoint', 'a:1')).toEqual([1, 1, null]);
    expect(launch('--nnodes=2', '--nproc_per_node=4', '--rdzv_endpoint=a:29500')).toEqual([4, 2, 'a:29500']);
    expect(launch('--nnodes=2', '--node_rank=1', '--master_addr=a', '--master_port', '29400')).toEqual([
      1,
      2,
      'a:29400',
    ]);
    expect(launch('--nnodes=2', '--master-addr', 'a')).toEqual([1, 2, 'a:29500']);
    expect(launch('--master_addr=a')).toEqual([1, 1, null]);
    expect(header(...command('--nnodes=2'))).toContainEqual(
      expect.stringMatching(/^# launch\.rendezvous is HOST:PORT/),
    );
    expect(header(...command('--nnodes', '$N', '--master_addr', '$HEAD'))).toEqual(
      expect.arrayContaining([
        '# --nnodes $N: set launch.nodes to its value.',
        '# --rdzv_endpoint $HEAD:29500: set launch.rendezvous to its value.',
      ]),
    );
    const restarts = (option: string) => load(['torchrun', option, 'main.py', ...NEEDED, ...LISTS]).launch.max_restarts;
    expect([restarts('--max-restarts=1'), restarts('--max_restarts=4')]).toEqual([1, 4]);
    expect(importCommand(command('--nproc_per_node', 'gpu'))).toContain('devices: auto');
    expect(header(...command('--nproc_per_node', '$GPUS'))).toContain(
      '# --nproc_per_node $GPUS: set launch.devices to its value.',
    );
    expect(problemsOf(() => importCommand(command('--nproc_per_node', 'cpu', '--nnodes', '1:4')))).toEqual([
      '--nproc_per_node  found "cpu". Allowed: a whole number from 1 or auto.',
      '--nnodes  found "1:4". Allowed: a whole number from 1.',
      expect.any(String),
    ]);
    const evaluated = header(...command('--nproc_per_node', '4'), '--eval_only');
    expect(evaluated).toContain('# --nproc_per_node 4: an evaluation takes one device here.');
  });

  test.each([
    [['--resume_path', 'x.pth', '--auto_resume'], 'yarn train --config FILE --resume x.pth'],
    [[], 'yarn train --config FILE --resume never'],
    [['--eval_only', '--resume_path', 'x.pth'], 'yarn evaluate --config FILE --checkpoint x.pth'],
    [['--eval_only'], 'yarn evaluate --config FILE --checkpoint PATH'],
  ])('%j becomes %s', (words, command) => {
    expect(importCommand(['main.py', ...words]).split('\n')[2]).toBe(`# Run: ${command}`);
  });

  test('what the original asks for and did not get is named', () => {
    const missing = (...words: string[]) =>
      header('main.py', ...words).flatMap(
        (line) => /^# (--\w+) was not given.*: set (\S+)\.$/.exec(line)?.slice(1) ?? [],
      );
    expect(missing('--num_steps', '3', '--backbone_path', 'x')).toEqual([
      ...[
        '--val_list_path',
        'data.val_list',
        '--batch_size',
        'train.batch_size',
        '--train_list_path',
        'data.train_list',
      ],
    ]);
    expect(missing('--eval_only', '--val_list_path', 'v')).toEqual(['--backbone_path', 'model.backbone.weights']);
  });

  test('a stride under --tsn_sampling is said to do nothing, and is left out', () => {
    const words = ['main.py', ...NEEDED, ...LISTS, '--tsn_sampling', '--sampling_rate', '8'];
    expect(header(...words)).toContain('# --sampling_rate 8: has no effect under --tsn_sampling.');
    writeFileSync(join(folder, 'tsn.yaml'), importCommand(words));
    expect(loadConfig(join(folder, 'tsn.yaml')).notes).toEqual([]);
  });
});

test('relative paths mean the same files from where the YAML lies', () => {
  mkdirSync(join(folder, 'sub'), { recursive: true });
  const output = join(folder, 'sub', 'paths.yaml');
  const words = ['main.py', ...NEEDED, '--train_list_path', 'lists/t.txt', '--val_list_path', '${' + 'ROOT}/v.txt'];
  writeFileSync(output, importCommand(words, output));
  const { data } = loadConfig(output, { env: { ROOT: '/r' } }).config;
  expect([data.train_list, data.val_list]).toEqual([join(process.cwd(), 'lists/t.txt'), '/r/v.txt']);
  expect([data.root, data.train_root]).toEqual([process.cwd(), process.cwd()]); // the original: os.path.join('', path)
  expect(importCommand(words)).toContain('train_list: lists/t.txt\n');
});

describe('shell texts', () => {
  test('quotes, continued lines, variables, comments and redirections', () => {
    const script = `#!/usr/bin/env sh
exp_dir=runs/a
mkdir -p "\${exp_dir}"  # for the log
CUDA_VISIBLE_DEVICES=0 python -u \\
  main.py \\
    --backbone "ViT-B/16-lnpre" --data_root '$A  b' --x=a"b c"'d'\\ e \\
    --checkpoint_dir "\${exp_dir}" --pretrain $HOME/x 2>"err log" >>out --lr 4e-4 \\
  2>&1 | tee "\${exp_dir}/train-$(date +"%Y%m%d").log"
`;
    expect(findCommand(script, 'main.py')).toEqual([
      ...['CUDA_VISIBLE_DEVICES=0', 'python', '-u', 'main.py', '--backbone', 'ViT-B/16-lnpre', '--data_root', '$A  b'],
      ...['--x=ab cd e', '--checkpoint_dir', 'runs/a', '--pretrain', '${' + 'HOME}/x', '--lr', '4e-4'],
    ]);
  });

  test('a command may be one word, or lie in a script', () => {
    const script = join(folder, 'train.sh');
    writeFileSync(script, 'cd x && python main.py \\\n  --num_frames 4\n');
    const quiet = Object.assign(new Report(), { note: () => {} });
    const [one, two] = [join(folder, 'one.yaml'), join(folder, 'two.yaml')];
    runImport({ words: ['python main.py --num_frames 4'], output: one }, quiet);
    runImport({ words: [], script, output: two }, quiet);
    expect(readFileSync(two, 'utf8').replace('two', 'one')).toBe(readFileSync(one, 'utf8'));
    expect(readFileSync(one, 'utf8')).toContain('num_frames: 4\n');
    expect(problemsOf(() => runImport({ words: ['main.py'], output: one }, quiet))[0]).toContain('exists');
  });

  test('an open quote is an error with its line', () => {
    expect(problemsOf(() => findCommand('a\nmain.py "b\n', 'main.py'))[0]).toMatch(
      /^line 2 of the command {2}found "b/,
    );
  });
});

test('the program takes the words after -- as they are', async () => {
  const flags = ['--num_frames', '0016', '--lr', '4e-4', '--checkpoint_dir', '007', '--json', '1'];
  const { code, stderr } = await coldframe(['import-command', '--', 'main.py', ...flags]);
  expect([code, stderr]).toEqual([2, expect.stringContaining('--json  unknown flag.')]);
  const { stdout } = await coldframe(['import-command', '--', 'main.py', ...flags.slice(0, -2)]);
  expect(stdout).toContain('--run-dir 007 ');
  expect(stdout).toContain('num_frames: 16\n');
  const { stdout: table } = await coldframe(['flags', '--json']);
  const lines = table.trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line).flag)).toEqual(Object.keys(UPSTREAM_FLAGS).map((name) => `--${name}`));
});
