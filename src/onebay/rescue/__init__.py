"""The rescue system: everything onebay does, from RAM; made without root from pinned Debian packages."""
