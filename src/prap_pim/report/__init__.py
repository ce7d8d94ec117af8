"""What people read: tables on the terminal, HTML pages and figures, from results alone."""
