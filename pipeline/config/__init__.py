"""Hold one run's configuration: typed, frozen, one module a section, without torch."""
