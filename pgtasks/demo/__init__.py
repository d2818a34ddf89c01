"""`pgtasks demo`: words of thousands of files, counted by two workers, one of which is killed on the way."""
