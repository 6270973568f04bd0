"""The leaderboard server. Nothing is here yet."""
