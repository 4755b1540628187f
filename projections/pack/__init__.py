"""Runs as an archive file that another Tachograph can import: `format` says what is in it, `packer` writes it."""
