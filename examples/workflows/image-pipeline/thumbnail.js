// Half the size: each pixel is the mean of four.
exports.handler = (params, context) => {
  const pixels = params.pixels;
  const rows = [];
  for (let y = 0; y + 1 < pixels.length; y += 2) {
    const row = [];
    for (let x = 0; x + 1 < pixels[y].length; x += 2) {
      const sum = pixels[y][x] + pixels[y][x + 1] + pixels[y + 1][x] + pixels[y + 1][x + 1];
      row.push(Math.floor(sum / 4));
    }
    rows.push(row);
  }
  return { rows };
};
