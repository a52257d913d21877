/** `export onnx`, `export torch`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, number, type Parsed, REQUIRED, SET, TRIAL, text } from '../options.ts';

export const exportModel = (parser: Argv) =>
  parser.command('export', 'a checkpoint as a file for other programs', exportCommands);

const exportCommands = (command: Argv) =>
  begin(command, 'export')
    .command('onnx <checkpoint>', 'for onnxruntime and others, with a card and an example', onnxOptions, runOnnx)
    .command('torch <checkpoint>', 'a torch.export archive and safetensors, with a card', torchOptions, runTorch);

const common = (command: Argv, verb: string, ending: string) =>
  begin(command, `export ${verb}`)
    .positional('checkpoint', name('checkpoint or run folder'))
    .option('output', text('output', `file to write, ${ending}`, { demandOption: true, ...REQUIRED }))
    .option('list', text('list', 'videos to compare on; by default the validation list', {}))
    .option('videos', { ...number('videos', 'how many of them at most', { least: 1 }), default: 200 })
    .option('trial', TRIAL)
    .option('config', text('config', 'its model, for a checkpoint of the original', {}))
    .option('set', SET);

const onnxOptions = (command: Argv) =>
  common(command, 'onnx', 'FILE.onnx').option('precision', {
    ...{ choices: ['fp32', 'fp16', 'int8'] as const, default: 'fp32' as const, requiresArg: true },
    describe: 'what the file computes in; int8: the weights of matrix products',
  });

const torchOptions = (command: Argv) => common(command, 'torch', 'FILE.pt2');

async function runOnnx(args: Parsed<typeof onnxOptions>): Promise<void> {
  const { exportCheckpoint } = await import('../../inference/export.ts');
  await exportCheckpoint({ ...args, format: 'onnx' }, new Report({ json: args.json }));
}

async function runTorch(args: Parsed<typeof torchOptions>): Promise<void> {
  const { exportCheckpoint } = await import('../../inference/export.ts');
  await exportCheckpoint({ ...args, format: 'torch', precision: 'fp32' }, new Report({ json: args.json }));
}
