"""Pictures and pages, read from run folders."""
