"""Reports of runs: one self-contained HTML file, made to be read by somebody who did not write the code."""
