"""Its folder holds what tests of several packages import: servers, hostile files, toy experiments."""
