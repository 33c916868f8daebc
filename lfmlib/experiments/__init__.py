"""What the records measure, one module each (see `lfmlib.records`)."""
