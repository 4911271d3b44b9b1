"""What recipes on sound share: clips, spectrograms and the way back, networks of voices."""
