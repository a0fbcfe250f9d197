"""ext2, ext3 and ext4."""

from onebay.fs.ext.filesystem import ExtFs
from onebay.fs.ext.journal import ExtJournal, journal_findings
from onebay.fs.ext.probe import probe

__all__ = ["ExtFs", "ExtJournal", "journal_findings", "probe"]
