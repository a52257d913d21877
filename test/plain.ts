/** Before each file of tests: jest tells its workers to colour when it has a terminal, and texts are compared here. */
delete process.env.FORCE_COLOR;
process.env.NO_COLOR = '1';
