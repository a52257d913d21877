/** `lists from-folders` and its relatives, `lists split`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, number, type Parsed, REQUIRED, text } from '../options.ts';

export const lists = (parser: Argv) =>
  parser.command('lists', 'lists of clips from the usual layouts, and their split', listsCommands);

const listsCommands = (command: Argv) =>
  begin(command, 'lists')
    .command('from-folders <dir>', 'from a folder for each class', foldersOptions, runFolders)
    .command('split <list>', 'one list into train.txt, val.txt and select.txt', splitOptions, runSplit);

const OUTPUT = text('output', 'folder for lists and classes.txt; nothing there is overwritten', {
  demandOption: true,
  ...REQUIRED,
});
const CLASSES = text('classes', 'file of class names whose order stays (default: in the order of the names)', {});

const foldersOptions = (command: Argv) =>
  begin(command, 'lists from-folders')
    .positional('dir', name('folder with a folder for each class, of any depth'))
    .option('output', OUTPUT)
    .option('classes', CLASSES);

async function runFolders({ dir, output, classes, json }: Parsed<typeof foldersOptions>): Promise<void> {
  const { readFolders } = await import('../../data/layouts/folders.ts');
  const { writeLayout } = await import('../../data/layouts/write.ts');
  writeLayout(readFolders(dir), { output, classes }, new Report({ json }));
}

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
