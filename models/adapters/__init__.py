"""Files beside a checkpoint that change what it generates, row by row."""
