"""What an evaluation compares: doses, controls and forms of steering."""
