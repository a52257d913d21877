/** `export`: a checkpoint as one file for other programs, compared with what it was made of before it gets its name. */

import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { makeFolder, syncFolder, withPath, withScratch } from '../base/files.ts';
import { PYTHON_FOLDER } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import type { Config } from '../config/load.ts';
import { checkLists, filesOf } from '../data/checks.ts';
import type { Compared, Exported } from '../runtime/replies.ts';
import type { Session } from '../runtime/session.ts';
import { type CheckpointArguments, openCheckpoint, type UsedCheckpoint } from './checkpoint-config.ts';
import { forgetClasses } from './evaluate.ts';
import { type ExportAbout, type Precision, writeCard } from './export-card.ts';
import { describeOpen, withOpened } from './opened.ts';

export interface ExportArguments extends CheckpointArguments {
  format: 'onnx' | 'torch';
  output: string;
  precision: Precision;
  /** To compare on; by default the validation list of the configuration, where it can be read. */
  list: string | undefined;
  /** How many of its videos at most. */
  videos: number;
}

const ENDINGS = { onnx: '.onnx', torch: '.pt2' };
/** What stands beside the file. */
const COMPANIONS = { onnx: ['.md', '.py'], torch: ['.md', '.safetensors'] };
/** Of a probability. In half precision and with 8 bits it is told, and the user decides. */
const LARGEST_DIFFERENCE = 1e-3;
const CALL_SECONDS = 1;

/** Writes FILE, its card and an example; nothing where the file does not give what the checkpoint gives. */
export async function exportCheckpoint(args: ExportArguments, report: Report): Promise<void> {
  const output = resolve(args.output);
  refuseEnding(args);
  refuseForeign(output, COMPANIONS[args.format]);
  const used = openCheckpoint(args, (line) => report.note(line));
  const config = forComparison(used.config, args.list);
  const classes = used.classes ?? Array.from({ length: config.data.num_classes }, (_, label) => String(label));
  report.enableProgress();
  report.say(`Exporting ${showPath(used.path)}\nLoading PyTorch ...`);
  await withScratch(async (scratch) => {
    const val = await listToCompare(args, config, scratch, report);
    const trial = { name: used.name, settings: config };
    const mode = val === null ? 'predict' : 'evaluate';
    const request = describeOpen(mode, trial, used.path, used.classes, { train: null, val });
    await withOpened(config, request, report, async (session, opened) => {
      const about = describeExport(used, config, classes, opened);
      const event = await withPartial(output, async (folder) => {
        const file = join(folder, basename(output));
        report.waiting('writing the model ...');
        const exported = await session.export(file, args.precision, about);
        const compared = await compare(session, file, args.videos, report);
        refuseDifference(args, compared);
        writeCard(
          {
            format: args.format,
            precision: args.precision,
            output,
            about,
            exported,
            compared,
            checkpoint: used.path,
            trial: used.name,
            config,
          },
          stem(file),
        );
        if (args.format === 'onnx')
          copyFileSync(join(PYTHON_FOLDER, 'coldframe/evaluate/export/example.py'), `${stem(file)}.py`);
        return describeFile(args, exported, compared, output);
      });
      report.event(event);
    });
  });
}

function refuseEnding({ format, output }: ExportArguments): void {
  if (extname(output) === ENDINGS[format]) return;
  throw new UserError(
    `--output  found ${showPath(output)}. \`export ${format}\` writes a file that ends with ${ENDINGS[format]}: --output ${showPath(stem(output))}${ENDINGS[format]}`,
  );
}

/** Beside an earlier export they are its own. Where there is none, `train.onnx` would replace somebody's train.py. */
function refuseForeign(output: string, endings: string[]): void {
  const found = endings.map((ending) => `${stem(output)}${ending}`).filter((file) => existsSync(file));
  if (existsSync(output) || found.length === 0) return;
  const names = found.map((file) => showPath(file)).join(' and ');
  throw new UserError(
    `--output  found ${showPath(output)}, and what belongs beside it would replace ${names}. Name another file.`,
  );
}

/** A file without its ending. */
const stem = (file: string): string => file.slice(0, file.length - extname(file).length);

/** Whatever it was trained in and on: on the processor, in full precision, from videos. */
function forComparison({ data, train, launch, ...config }: Config, list: string | undefined): Config {
  const from = list === undefined ? {} : { val_list: resolve(list) };
  return {
    ...config,
    data: { ...data, ...from, features: null },
    train: { ...train, precision: 'fp32', compile: false },
    launch: { ...launch, device: 'cpu' },
  };
}

/** Returns the list in the form that Python reads, null where there is none: its own list may lie on another machine. */
async function listToCompare(
  args: ExportArguments,
  config: Config,
  scratch: string,
  report: Report,
): Promise<string | null> {
  const { val_list, dummy } = config.data;
  if (val_list === null || dummy) return null;
  if (args.list === undefined && !existsSync(val_list)) return null;
  const used = args.config === undefined ? forgetClasses(config, args.set) : config;
  try {
    return filesOf(await checkLists(used, ['val'], scratch, { warn: () => {} })).val;
  } catch (error) {
    if (args.list !== undefined || !(error instanceof UserError)) throw error;
    report.note(
      `${showPath(val_list)}  cannot be used here (${error.problems[0]}): compared on noise. --list LIST names another.`,
    );
    return null;
  }
}

function describeExport(
  { path }: UsedCheckpoint,
  { data, model }: Config,
  classes: string[],
  { step, backbone_sha256 }: { step: number; backbone_sha256: string },
): ExportAbout {
  return {
    input: 'video: float32 (clips, 3, frames, size, size), RGB in 0..255',
    output: 'probabilities: float32 (clips, classes)',
    num_frames: data.num_frames,
    stride: data.sampling === 'tsn' ? null : data.stride,
    size: data.size,
    labels: data.labels,
    classes,
    step,
    checkpoint: path,
    backbone: model.backbone.preset,
    backbone_sha256,
  };
}

/** Lets `work` fill a folder beside the output, and moves what is in it to its place when all is well. */
async function withPartial<T>(output: string, work: (folder: string) => Promise<T>): Promise<T> {
  const target = dirname(output);
  const partial = join(target, `.${basename(output)}.${process.pid}.partial`);
  try {
    makeFolder(target);
    mkdirSync(partial);
    const result = await work(partial);
    // The model comes last: who finds it finds what belongs to it.
    const names = readdirSync(partial).filter((name) => name !== basename(output));
    for (const name of [...names, basename(output)]) renameSync(join(partial, name), join(target, name));
    syncFolder(target);
    return result;
  } catch (error) {
    throw withPath(error, output);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

async function compare(session: Session, file: string, videos: number, report: Report): Promise<Compared> {
  for (;;) {
    const compared = await session.compareExport(file, CALL_SECONDS, videos);
    report.progress('compare', compared.num_seen, compared.num_total);
    if (compared.done) return compared;
  }
}

function refuseDifference({ format, output, precision }: ExportArguments, compared: Compared): void {
  const { largest_difference: found, num_total, num_bad } = compared;
  if (num_bad === num_total)
    throw new UserError('none of the videos to compare on can be read. --list LIST names others.');
  if (precision !== 'fp32' || found <= LARGEST_DIFFERENCE) return;
  throw new UserError(
    `${showPath(output)}  was not written: its probabilities differ from PyTorch's by up to ${found.toExponential(1)} (allowed: ${LARGEST_DIFFERENCE}). ` +
      `Please report the configuration, and the versions that \`coldframe doctor\` shows; \`export ${format === 'onnx' ? 'torch' : 'onnx'}\` may serve.`,
  );
}

const describeFile = ({ format, precision }: ExportArguments, exported: Exported, found: Compared, path: string) => ({
  kind: 'exported' as const,
  ...{ path, format, precision, ...exported },
  ...{ num_compared: found.num_total - found.num_bad, is_noise: found.is_noise },
  ...{ largest_difference: found.largest_difference, agreement: found.agreement, top1: found.top1 },
});
