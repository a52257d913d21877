/** `lists from-folders`, `from-csv` and the others, `lists split`. */

import { dirname } from 'node:path';
import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import type { Layout } from '../../data/layouts/layout.ts';
import { begin, name, names, number, type Parsed, REQUIRED, text } from '../options.ts';

export const lists = (parser: Argv) =>
  parser.command('lists', 'lists of clips from the usual layouts, and their split', listsCommands);

const listsCommands = (command: Argv) =>
  begin(command, 'lists')
    .command('from-folders <dir>', 'a folder for each class', foldersOptions, runFolders)
    .command('from-csv <file>', 'CSV or TSV: path, label, start, end, split, group', rowsOptions('from-csv'), runCsv)
    .command('from-jsonl <file>', 'JSON lines with the same keys', rowsOptions('from-jsonl'), runJsonLines)
    .command('from-kinetics <files..>', "Kinetics' CSV files and downloaded videos", kineticsOptions, runKinetics)
    .command('from-ssv2 <dir>', 'Something-Something v2', folderOptions('from-ssv2'), runSsv2)
    .command('from-ucf101 <dir>', 'UCF101, all three splits', folderOptions('from-ucf101'), runUcf101)
    .command('from-hmdb51 <dir>', 'HMDB51, all three splits', folderOptions('from-hmdb51'), runHmdb51)
    .command('from-label-studio <file>', "Label Studio's JSON", rowsOptions('from-label-studio'), runLabelStudio)
    .command('from-cvat <file>', "tags or tracks of CVAT's annotations.xml", rowsOptions('from-cvat'), runCvat)
    .command('split <list>', 'one list into train.txt, val.txt and select.txt', splitOptions, runSplit);

const OUTPUT = text('output', 'folder for lists and classes.txt; nothing there is overwritten', {
  demandOption: true,
  ...REQUIRED,
});
const CLASSES = text('classes', 'file of class names whose order stays (default: in the order of the names)', {});
const VIDEOS = text('videos', 'folder of the videos (default: that of the annotations)', {});

const foldersOptions = (command: Argv) =>
  begin(command, 'lists from-folders')
    .positional('dir', name('folder with a folder for each class, of any depth'))
    .option('output', OUTPUT)
    .option('classes', CLASSES);

const rowsOptions = (verb: string) => (command: Argv) =>
  begin(command, `lists ${verb}`)
    .positional('file', name('the file'))
    .option('videos', VIDEOS)
    .option('output', OUTPUT)
    .option('classes', CLASSES)
    .option(
      'frame-rate',
      number('frame-rate', 'frames a second, where times are frames', { least: 0.001, isWhole: false }),
    );

const kineticsOptions = (command: Argv) =>
  begin(command, 'lists from-kinetics')
    .positional('files', names('CSV files'))
    .option('videos', VIDEOS)
    .option('output', OUTPUT)
    .option('classes', CLASSES);

const folderOptions = (verb: string) => (command: Argv) =>
  begin(command, `lists ${verb}`)
    .positional('dir', name('folder of the annotations'))
    .option('videos', VIDEOS)
    .option('output', OUTPUT)
    .option('classes', CLASSES);

interface Common {
  output: string;
  classes: string | undefined;
  json: boolean;
}

/** Reads a layout and writes its lists. */
async function write({ output, classes, json }: Common, read: () => Promise<Layout>): Promise<void> {
  const { writeLayout } = await import('../../data/layouts/write.ts');
  writeLayout(await read(), { output, classes }, new Report({ json }));
}

const runFolders = (args: Parsed<typeof foldersOptions>): Promise<void> =>
  write(args, async () => (await import('../../data/layouts/folders.ts')).readFolders(args.dir));

type Rows = Parsed<ReturnType<typeof rowsOptions>>;

const toRows = ({ file, videos, 'frame-rate': frameRate }: Rows) => ({
  file,
  videos: videos ?? dirname(file),
  frameRate,
});

const runCsv = (args: Rows): Promise<void> =>
  write(args, async () => (await import('../../data/layouts/rows.ts')).readCsv(toRows(args)));

const runJsonLines = (args: Rows): Promise<void> =>
  write(args, async () => (await import('../../data/layouts/rows.ts')).readJsonLines(toRows(args)));

const runLabelStudio = (args: Rows): Promise<void> =>
  write(args, async () => {
    const { readLabelStudio } = await import('../../data/layouts/annotations/label-studio.ts');
    return readLabelStudio(toRows(args));
  });

const runCvat = (args: Rows): Promise<void> =>
  write(args, async () => (await import('../../data/layouts/annotations/cvat.ts')).readCvat(toRows(args)));

const runKinetics = (args: Parsed<typeof kineticsOptions>): Promise<void> =>
  write(args, async () => {
    const { readKinetics } = await import('../../data/layouts/annotations/kinetics.ts');
    return readKinetics(args.files, args.videos ?? dirname(args.files[0] ?? ''));
  });

type Folder = Parsed<ReturnType<typeof folderOptions>>;

const runSsv2 = (args: Folder): Promise<void> =>
  write(args, async () => {
    const { readSsv2 } = await import('../../data/layouts/annotations/ssv2.ts');
    return readSsv2(args.dir, args.videos ?? args.dir);
  });

const runUcf101 = (args: Folder): Promise<void> =>
  write(args, async () => {
    const { readUcf101 } = await import('../../data/layouts/annotations/official.ts');
    return readUcf101(args.dir, args.videos ?? args.dir);
  });

const runHmdb51 = (args: Folder): Promise<void> =>
  write(args, async () => {
    const { readHmdb51 } = await import('../../data/layouts/annotations/official.ts');
    return readHmdb51(args.dir, args.videos ?? args.dir);
  });

const splitOptions = (command: Argv) =>
  begin(command, 'lists split')
    .positional('list', name('list with all clips'))
    .option('output', text('output', 'folder for the three lists (default: that of the list)', {}))
    .option('root', text('root', "folder of the list's relative paths (default: its own)", {}))
    .option('val', {
      ...number('val', 'share of the groups to validate on', { most: 1, isWhole: false }),
      default: 0.2,
    })
    .option('select', {
      ...number('select', 'share to choose on, as a sweep does; 0: no such list', { most: 1, isWhole: false }),
      default: 0.1,
    })
    .option('seed', { ...number('seed', 'with the group it says where a clip goes'), default: 0 })
    .option('group', text('group', 'regular expression: clips with the same match stay together', {}))
    .option('groups', text('groups', 'CSV with the columns path and group', {}));

async function runSplit(args: Parsed<typeof splitOptions>): Promise<void> {
  const { list, root, output, val, select, seed, group: pattern, groups, json } = args;
  const { splitList } = await import('../../data/layouts/split-list.ts');
  const request = { list, root, output, shares: { val, select }, seed, pattern, groups };
  await splitList(request, new Report({ json }));
}
