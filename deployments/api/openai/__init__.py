"""OpenAI's Images dialect: its fields, its answers, and a module for the routes of each kind."""
