"""What a checkpoint holds, and reading it: files, names, roles, and values as they are asked for."""
