"""What a user has: a folder, a table, an archive or a data set of the Hub."""
