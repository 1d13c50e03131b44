"""The HTML page: `page.html` is its template, `page.css` its look, `page.js` what the pointer does."""
