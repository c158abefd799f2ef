package example;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reads predictions with Apache Kafka's and Apache Avro's own libraries: {@code java example.Subscribe [--once]}.
 *
 * <p>Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC, SCHEMAS (the folder schemas/ of Leadstream), SCHEMA_REGISTRY_URL if
 * there is one. Prints {@code lead id<tab>probability<tab>grade}, or {@code lead id<tab>erased}.
 */
public class Subscribe {
  private final Schema readerSchema;
  private final BinaryMessageDecoder<GenericRecord> singleObjects;
  private final Map<Integer, Schema> byId = new HashMap<>();

  Subscribe(Path schemas) throws IOException {
    // What is read into: fields that a newer Leadstream adds are skipped, those that an older one lacks get defaults.
    readerSchema = parse(schemas.resolve("lead_prediction.avsc"));
    singleObjects = new BinaryMessageDecoder<>(GenericData.get(), readerSchema);
    try (var released = Files.list(schemas.resolve("released"))) {
      for (Path version : (Iterable<Path>) released::iterator) {
        singleObjects.addSchema(parse(version.resolve("lead_prediction.avsc")));
      }
    }
  }

  private static Schema parse(Path path) throws IOException {
    return new Schema.Parser().parse(Files.readString(path));
  }

  /** One prediction, in either framing. */
  GenericRecord decode(byte[] value) throws Exception {
    if (value[0] == (byte) 0xc3) { // Avro single object: Avro's own decoder knows it
      return singleObjects.decode(value);
    }
    // Confluent: a zero byte, the id of the writer's schema in the registry, 4 bytes, and the body.
    Schema writer = registered(ByteBuffer.wrap(value, 1, 4).getInt());
    var body = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
    return new GenericDatumReader<GenericRecord>(writer, readerSchema).read(null, body);
  }

  private Schema registered(int id) throws Exception {
    if (!byId.containsKey(id)) {
      URI uri = URI.create(System.getenv("SCHEMA_REGISTRY_URL") + "/schemas/ids/" + id);
      var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString());
      String schema = new ObjectMapper().readTree(answer.body()).get("schema").asText();
      byId.put(id, new Schema.Parser().parse(schema));
    }
    return byId.get(id);
  }

  public static void main(String[] arguments) throws Exception {
    boolean once = List.of(arguments).contains("--once");
    String topic = System.getenv().getOrDefault("TOPIC", "crm.lead-predictions");
    var subscribe = new Subscribe(Path.of(System.getenv().getOrDefault("SCHEMAS", "../../schemas")));
    Map<String, Object> config =
        Map.of(
            "bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP_SERVERS"),
            // Java clients read what may yet be aborted unless they are told not to.
            "isolation.level", "read_committed");
    try (var consumer =
        new KafkaConsumer<>(config, new StringDeserializer(), new ByteArrayDeserializer())) {
      // A table of all scores starts from the beginning each time; a service has a group.id and subscribes.
      List<TopicPartition> partitions =
          consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      Set<TopicPartition> unread = new HashSet<>(partitions);
      while (!once || !unread.isEmpty()) {
        for (var record : consumer.poll(Duration.ofMillis(200))) {
          if (record.value() == null) {
            System.out.println(record.key() + "\terased");
          } else {
            GenericRecord it = subscribe.decode(record.value());
            System.out.printf(
                Locale.ROOT, "%s\t%.3f\t%s%n", it.get("lead_id"), it.get("probability"), it.get("grade"));
          }
        }
        unread.removeIf(partition -> consumer.position(partition) >= ends.get(partition));
      }
    }
  }
}
