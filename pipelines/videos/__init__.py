"""Clips of videos: shots, cuts, frames, facts and fingerprints."""
