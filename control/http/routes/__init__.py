"""The routes, one module for each surface: what is asked, which right it takes, and how the answer is spelled."""
