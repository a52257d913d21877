/** The scripts of the reports' pages. */

import { type PageScript, readScript } from '../../base/page/script.ts';

export type PageName = 'sweep' | 'run';

const describe = (page: PageName): PageScript => ({
  name: `${page}-page.js`,
  entry: `results/report-page/${page}.ts`,
  banner:
    '/* With d3 (Copyright Mike Bostock) and Observable Plot (Copyright Observable, Inc.), both under the ISC License. */',
});

export const REPORT_SCRIPTS = (['sweep', 'run'] as const).map(describe);

export const readPageScript = (page: PageName): Promise<string> => readScript(describe(page));
