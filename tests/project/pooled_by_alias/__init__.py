"""An engine as others make them, whose pools are told by the alias alone."""
