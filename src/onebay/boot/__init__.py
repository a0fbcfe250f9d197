"""Boot paths: what BIOS and UEFI would run, GRUB configuration, and the loader that a fold installs."""
