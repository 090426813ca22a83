"""What `sarguard doctor` looks at; nothing here needs torch to be installed."""
