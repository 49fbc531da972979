// Sudokus: which canvas is one, what its cells are called, and puzzles to choose from.

const LENGTH = 89; // nine lines of nine digits, with line breaks between them

/** Whether texts of cells, null for blanks, are nine lines of nine digits. */
export function isGrid(texts) {
  const is = (text, at) => (at % 10 === 9 ? text === '\n' : text === null || /^[1-9]$/.test(text));
  return texts.length === LENGTH && texts.every(is);
}

/** Whether a template is a puzzle, blanks being dots. */
export const isPuzzle = (template) => /^([1-9.]{9}\n){8}[1-9.]{9}$/.test(template.trim());

/** The name of a cell. */
export function place(at, inGrid) {
  return inGrid ? `row ${Math.floor(at / 10) + 1}, column ${(at % 10) + 1}` : `cell ${at + 1}`;
}

/** Whether each row, column and box of a full grid has each digit once. */
export function isSolved(texts) {
  const sets = [];
  for (let n = 0; n < 9; n += 1) {
    const [row, column, box] = [[], [], []];
    for (let k = 0; k < 9; k += 1) {
      row.push(texts[n * 10 + k]);
      column.push(texts[k * 10 + n]);
      box.push(texts[(Math.floor(n / 3) * 3 + Math.floor(k / 3)) * 10 + (n % 3) * 3 + (k % 3)]);
    }
    sets.push(row, column, box);
  }
  return sets.every((set) => new Set(set).size === 9 && !set.includes(null));
}

/** A solved grid, and the same with digits that are wrong: for completing, scoring, repairing. */
export const SOLVED =
  '534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n' +
  '961537284\n287419635\n345286179';
export const WRONG =
  '534678912\n672195348\n198342567\n859761428\n426853791\n713924856\n' +
  '961537284\n287419635\n345286177';

/** Puzzles with one solution, and what one sees in them with the model’s default policy. */
export const PUZZLES = [
  {
    name: 'A few slips',
    note: 'Five digits are erased and written again on the way.',
    template:
      '..49.....\n..3..6...\n.5.4.1..2\n3.9..8726\n..16.24..\n' +
      '68.......\n.3.27..9.\n.9....21.\n2....9..5',
  },
  {
    name: 'Second thoughts',
    note: 'The first full grid is wrong. Proofreading finds the doubtful digits.',
    template:
      '..5.29.3.\n2...3....\n.9.7..8.2\n9..51....\n.849...2.\n' +
      '32..4..9.\n.3......4\n.........\n....6.759',
  },
  {
    name: 'A long struggle',
    note: 'More than fifty digits are erased before the grid is right.',
    template:
      '5..3.7...\n.9..52..6\n.76....3.\n8........\n.4.7.32..\n' +
      '7..684..5\n.....51.4\n.8.......\n..39...2.',
  },
  {
    name: 'Over a hundred erasures',
    note: 'Round after round of proofreading, and right in the end.',
    template:
      '27..1.6..\n.6497..2.\n.3.......\n....91.4.\n7.....58.\n' +
      '.......36\n.....9...\n...1....4\n345..2.71',
  },
  {
    name: 'Straight through',
    note: 'An easy puzzle: nothing needs to be corrected.',
    template:
      '53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n' +
      '7...2...6\n.6....28.\n...419..5\n....8..79',
  },
  {
    name: 'Too hard',
    note: 'This model does not solve it, and its quality says so.',
    template:
      '8.25.....\n.....68..\n.9.83.7.5\n3......4.\n.......12\n' +
      '4....25..\n.8....65.\n75..8.2..\n..6.2...7',
  },
];
