"""What a trained model is asked, and says."""
