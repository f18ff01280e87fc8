"""Writers of videos: one module a format, all of them streaming, all of them replacing files atomically."""
