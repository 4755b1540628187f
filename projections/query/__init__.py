"""SQL of users: `statement` checks it, `views` names the tables, `queries` runs it in a `process` of its own."""
