"""What a run is given of a video: images and clips, read, fitted and resampled to the model's size and rate."""
